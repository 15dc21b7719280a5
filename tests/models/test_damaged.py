"""A damaged model folder is refused by what is wrong with it and what to do, before the engine says it is ready."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from backend import packaged
from backend.engine.config import EngineConfig
from backend.engine.embedding.encoder import Encoder
from backend.engine.messages import LoadFailed, Ready
from backend.engine.process import load, serve
from backend.engine.switches import Switches
from backend.models.checkpoint import BadModelError, ModelError, resolve
from backend.models.random_model import write
from backend.models.text import TextModel


class Pipe:
    """The engine's end of a pipe whose other end is gone once the engine has said how it is."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.backlog = 0

    def send(self, message: Any) -> None:
        self.said.append(message)

    def poll(self, _: float | None) -> bool:
        raise EOFError


def start(folder: Path, cache_dir: Path) -> Any:
    """What an engine says first."""
    pipe = Pipe()
    switches = Switches(quantization="fp32")
    config = EngineConfig(str(folder), cache_dir, kv_cache_bytes=8 << 20, switches=switches)
    serve(pipe, lambda emit: load(config, emit))  # type: ignore[arg-type]
    return pipe.said[0]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, chat_folder: Path) -> Path:
    folder = write("tiny", tmp_path_factory.mktemp("sound") / "tiny")
    shutil.copy(chat_folder / "tokenizer.json", folder)
    return folder


def config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        held = load_file(folder / "model.safetensors")
        change(held)
        save_file({name: tensor.clone() for name, tensor in held.items()}, folder / "model.safetensors")

    return rewrite


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


DOWN = "model.layers.2.mlp.down_proj.weight"
DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config": (without("config.json"), r"no config\.json"),
    "half a config": (text("config.json", '{"architectures": ['), r"config\.json cannot be read.*again"),
    "a config that is a list": (text("config.json", "[]"), r"config\.json holds no JSON object"),
    "words for numbers": (config(hidden_size="wide"), r"config\.json does not describe a model"),
    "no heads": (config(num_attention_heads=0), r"config\.json"),
    "heads that do not divide": (config(num_key_value_heads=3), "num_key_value_heads"),
    "another architecture": (config(architectures=["GPT2LMHeadModel"]), r"GPT2LMHeadModel.*LlamaForCausalLM.*Qwen3"),
    "quantized already": (config(quantization_config={"quant_method": "gptq"}), "gptq.*original"),
    "half a generation config": (text("generation_config.json", "{"), r"generation_config\.json cannot be read"),
    "a missing tensor": (weights(lambda w: w.pop(DOWN)), f"lacks {DOWN}.*again"),
    "a missing head": (config(tie_word_embeddings=False), r"lacks lm_head\.weight"),
    "a tensor of another size": (
        weights(lambda w: w.update({DOWN: torch.zeros(64, 95)})), rf"{DOWN} \[64, 95\] instead of \[64, 96\]",
    ),
    "another size in the config": (config(intermediate_size=128), "other sizes.*and 9 more"),
    "more layers in the config": (config(num_hidden_layers=5), r"lacks model\.layers\.4.*and 6 more"),
    "half the weights": (cut, r"model\.safetensors cannot be read"),
    "no weights": (without("model.safetensors"), "no safetensors file"),
    "a missing shard": (
        text("model.safetensors.index.json", '{"weight_map": {"a": "model.safetensors", "b": "second.safetensors"}}'),
        r"lacks the weight files second\.safetensors",
    ),
    "half an index": (text("model.safetensors.index.json", "{"), r"index\.json cannot be read"),
    "no tokenizer": (without("tokenizer.json"), r"no tokenizer\.json.*save_pretrained"),
    "half a tokenizer": (text("tokenizer.json", '{"model"'), r"tokenizer\.json cannot be read.*again"),
}  # fmt: skip


def test_a_sound_folder_is_served(sound: Path, cache_dir: Path) -> None:
    assert isinstance(start(sound, cache_dir), Ready)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_by_name(sound: Path, tmp_path: Path, cache_dir: Path, damage: str) -> None:
    import re

    folder = shutil.copytree(sound, tmp_path / "model")
    change, what = DAMAGES[damage]
    change(folder)
    said = start(folder, cache_dir)
    assert isinstance(said, LoadFailed)
    assert re.search(what, said.error, re.DOTALL) and "Traceback" not in said.error


@pytest.mark.parametrize(
    ("file", "content", "what"),
    [
        ("tokenizer_config.json", "{", "tokenizer_config.json cannot be read"),
        ("chat_template.jinja", "{% for %}", "chat template .* cannot be read"),
        ("tokenizer_config.json", '{"chat_template": []}', "chat template .* cannot be read"),
        ("tokenizer_config.json", '{"chat_template": [{"template": "x"}]}', "chat template .* cannot be read"),
        ("tokenizer_config.json", '{"chat_template": 7}', "chat template .* cannot be read"),
    ],
)
def test_a_broken_template_is_refused_by_name(
    sound: Path, tmp_path: Path, file: str, content: str, what: str
) -> None:
    folder = shutil.copytree(sound, tmp_path / "model")
    (folder / file).write_text(content)
    with pytest.raises(BadModelError, match=what):
        TextModel(folder)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (config(hidden_size=None), r"lacks hidden_size"),
        (config(intermediate_size=77), r"of other sizes.*intermediate\.dense\.weight"),
        (weights(lambda w: [w.pop(n) for n in list(w) if n.endswith("word_embeddings.weight")]), "lacks embeddings"),
        (weights(lambda w: [w.pop(n) for n in list(w) if "1.output.dense.bias" in n]), r"lacks encoder\.layer\.1"),
    ],
)
def test_a_damaged_embedding_model_is_refused_by_name(
    tmp_path: Path, cache_dir: Path, change: Callable[[Path], None], what: str
) -> None:
    folder = shutil.copytree(resolve(packaged.EMBEDDING_MODEL, cache_dir), tmp_path / "model")
    change(folder)
    with pytest.raises(BadModelError, match=what):
        Encoder(folder, torch.device("cpu"))


def test_every_refusal_of_a_model_is_one_kind_of_error() -> None:
    from backend.engine.model.weights import UnsupportedModelError
    from backend.models.checkpoint import ModelNotFoundError

    assert issubclass(UnsupportedModelError, BadModelError)
    assert issubclass(BadModelError, ModelError) and issubclass(ModelNotFoundError, ModelError)
    assert ModelError("x").status == 503
