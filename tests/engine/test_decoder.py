"""Each family's logits equal transformers' on the same random weights, prefill and decode, both attention paths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from backend.engine.attention.base import Batch, NewTokens, make_batch
from backend.engine.kernels.build import load_cpu_kernels
from backend.engine.model import configuration
from backend.engine.model.decoder import Decoder
from backend.engine.model.weights import UnsupportedModelError, read_shape

SMALL = dict(
    vocab_size=200, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
    max_position_embeddings=256, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)
FAMILIES: dict[str, tuple[type, Any]] = {
    "llama-gqa": (LlamaForCausalLM, LlamaConfig(**SMALL, num_key_value_heads=2)),
    "llama-mha-tied": (LlamaForCausalLM, LlamaConfig(**SMALL, num_key_value_heads=4, tie_word_embeddings=True)),
    "llama-rope-scaled": (
        LlamaForCausalLM,
        LlamaConfig(**SMALL, num_key_value_heads=2, rope_parameters={
            "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64}),
    ),
    "mistral": (MistralForCausalLM, MistralConfig(**SMALL, num_key_value_heads=1, head_dim=32, sliding_window=None)),
    "qwen2-bias": (Qwen2ForCausalLM, Qwen2Config(**SMALL, num_key_value_heads=2)),
    "qwen3-qk-norm": (Qwen3ForCausalLM, Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=80)),
    "smollm3-nope": (SmolLM3ForCausalLM, SmolLM3Config(**SMALL, num_key_value_heads=2, no_rope_layer_interval=3)),
}
TOLERANCE = 2e-5
"""Largest absolute difference of a logit in fp32; logits of these models reach about 1."""


def one_sequence(tokens: list[int], past: int, table: list[int]) -> Batch:
    part = NewTokens(tokens, range(past, past + len(tokens)), np.array(table, dtype=np.int32))
    return make_batch([part], list(range(len(tokens))), torch.device("cpu"))


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "portable"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_transformers(family: str, kernels: bool, tmp_path: Path, cache_dir: Path) -> None:
    kind, config = FAMILIES[family]
    torch.manual_seed(0)
    model = kind(config).eval()
    for name, parameter in model.named_parameters():  # norms and biases start trivial; make them count
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.3)
    model.save_pretrained(tmp_path)
    library = load_cpu_kernels(cache_dir) if kernels else None
    decoder = Decoder(tmp_path, "fp32", torch.device("cpu"), library)
    attention = decoder.make_attention()
    assert ("kernel" in attention.name) is kernels
    attention.allocate(16)
    tokens = torch.randint(0, 200, (1, 90))
    with torch.no_grad():
        wanted = model(tokens).logits[0]
    table = [3, 7, 1, 12, 5, 9]
    ids = tokens[0].tolist()
    pieces = [decoder.forward(one_sequence(ids[:50], 0, table), attention)]  # prefill
    pieces.append(decoder.forward(one_sequence(ids[50:83], 50, table), attention))  # a second chunk
    pieces += [decoder.forward(one_sequence([ids[i]], i, table), attention) for i in range(83, 90)]  # decode
    assert (torch.cat(pieces) - wanted).abs().max() < TOLERANCE


def test_an_unsupported_architecture_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}')
    with pytest.raises(UnsupportedModelError, match=r"GPT2LMHeadModel.*LlamaForCausalLM"):
        read_shape(tmp_path)


@pytest.mark.parametrize("variant", ["bf16", "int8"])
def test_sizes_that_are_no_whole_vectors_are_right_too(variant: str, tmp_path: Path, cache_dir: Path) -> None:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=128, hidden_size=72, head_dim=16, intermediate_size=100, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    results = []
    for name, kernels in (("fp32", None), (variant, load_cpu_kernels(cache_dir))):
        decoder = Decoder(tmp_path, name, torch.device("cpu"), kernels)
        attention = decoder.make_attention()
        attention.allocate(2)
        results.append(decoder.forward(one_sequence(list(range(20)), 0, [0, 1]), attention))
    assert float((results[0] - results[1]).norm() / results[0].norm()) < 0.05


def test_what_transformers_makes_of_a_configuration_is_remembered_until_the_file_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, folders, asked = tmp_path / "cache", {}, list[Path]()
    for family, (_, config) in FAMILIES.items():
        folders[family] = tmp_path / family
        config.save_pretrained(folders[family])
        file = folders[family] / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "architectures": [FAMILIES[family][0].__name__]}))
    monkeypatch.setattr(
        configuration, "as_transformers", lambda folder: asked.append(folder) or AutoConfig.from_pretrained(folder)
    )
    fresh = {family: read_shape(folder) for family, folder in folders.items()}
    first = {family: read_shape(folder, cache) for family, folder in folders.items()}
    assert first == fresh and len(asked) == 2 * len(FAMILIES)
    again = {family: read_shape(folder, cache) for family, folder in folders.items()}
    assert again == fresh and len(asked) == 2 * len(FAMILIES), "nobody was asked again"
    assert all(again[family].rope == fresh[family].rope for family in FAMILIES)
    one = folders["llama-gqa"] / "config.json"
    one.write_text(json.dumps({**json.loads(one.read_text()), "intermediate_size": 128}))
    assert read_shape(one.parent, cache).intermediate == 128
    for kept in (cache / "configurations").iterdir():
        kept.write_text('{"vocab_size": 7}')
    assert {family: read_shape(folder, cache) for family, folder in folders.items() if folder != one.parent} == {
        family: shape for family, shape in fresh.items() if family != "llama-gqa"
    }
