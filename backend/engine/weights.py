"""Reads a Hugging Face folder into the tensors and the shape that the decoder needs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from backend.models.checkpoint import weight_files

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "SmolLM3ForCausalLM": "smollm3",
}


class UnsupportedModelError(Exception):
    """The folder holds a model that this engine cannot run; names it and lists what it can."""


@dataclass(frozen=True)
class ModelShape:
    """The numbers that define a Llama-family decoder."""

    family: str
    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    norm_eps: float
    max_positions: int
    tied: bool
    eos_ids: tuple[int, ...]
    unrotated_layers: frozenset[int] = frozenset()
    rope: dict[str, Any] = field(default_factory=dict, compare=False)


def read_shape(folder: Path) -> ModelShape:
    """Read `config.json` (and `generation_config.json` for the end tokens).

    Raises:
        UnsupportedModelError: another architecture, or a variant of a known one that is not implemented.
    """
    from transformers import AutoConfig

    raw = json.loads((folder / "config.json").read_text())
    names = raw.get("architectures") or [str(raw.get("model_type"))]
    family = ARCHITECTURES.get(names[0])
    if family is None:
        raise UnsupportedModelError(
            f"{names[0]} is not supported. Supported architectures: {', '.join(ARCHITECTURES)}."
        )
    config = AutoConfig.from_pretrained(folder)
    if getattr(config, "hidden_act", "silu") != "silu":
        raise UnsupportedModelError(f"{names[0]} with activation {config.hidden_act!r} is not supported (only silu).")
    max_positions = config.max_position_embeddings
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", family == "mistral"):
        max_positions = min(max_positions, config.sliding_window)  # inside the window both are the same model
    eos = _eos_ids(folder, config.eos_token_id)
    rotated = getattr(config, "no_rope_layers", None) if family == "smollm3" else None
    return ModelShape(
        family=family,
        vocab=config.vocab_size,
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_size=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        intermediate=config.intermediate_size,
        norm_eps=config.rms_norm_eps,
        max_positions=max_positions,
        tied=bool(config.tie_word_embeddings),
        eos_ids=eos,
        unrotated_layers=frozenset(i for i, on in enumerate(rotated or []) if not on),
        rope={"config": config, **(getattr(config, "rope_parameters", None) or {})},
    )


def _eos_ids(folder: Path, default: Any) -> tuple[int, ...]:
    file = folder / "generation_config.json"
    value = json.loads(file.read_text()).get("eos_token_id", default) if file.is_file() else default
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (int(value),)


def rotary_tables(shape: ModelShape, positions: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines, float32 [positions, head_size / 2] each, scaled as the model's rope type asks."""
    kind = shape.rope.get("rope_type", "default")
    if kind == "default":
        base = float(shape.rope.get("rope_theta", 10_000.0))
        exponents = torch.arange(0, shape.head_size, 2, dtype=torch.float32, device=device) / shape.head_size
        frequencies, scale = 1.0 / base**exponents, 1.0
    else:
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        if kind not in ROPE_INIT_FUNCTIONS:
            raise UnsupportedModelError(f"Rope type {kind!r} is not supported.")
        frequencies, scale = ROPE_INIT_FUNCTIONS[kind](shape.rope["config"], device, seq_len=positions)
    angles = torch.outer(torch.arange(positions, dtype=torch.float32, device=device), frequencies.float())
    return (angles.cos() * scale).contiguous(), (angles.sin() * scale).contiguous()


def tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every weight of the folder by name, memory-mapped."""
    from safetensors import safe_open

    for file in weight_files(folder):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a dict
                yield name, opened.get_tensor(name)
