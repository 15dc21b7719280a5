"""Reads a Hugging Face folder into the tensors and the shape that the decoder needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from backend.engine.model.configuration import read_configuration
from backend.models.checkpoint import AGAIN, BadModelError, read_json, weight_files

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "SmolLM3ForCausalLM": "smollm3",
}


class UnsupportedModelError(BadModelError):
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
    qkv_bias: bool = False
    unrotated_layers: frozenset[int] = frozenset()
    rope: dict[str, Any] = field(default_factory=dict, compare=False)

    def products(self) -> list[tuple[int, int]]:
        """Sizes of a layer's products with weights, as (out, in)."""
        queries, states = self.heads * self.head_size, self.kv_heads * self.head_size
        return [
            (queries + 2 * states, self.hidden), (self.hidden, queries), (2 * self.intermediate, self.hidden),
            (self.hidden, self.intermediate),
        ]  # fmt: skip


def read_shape(folder: Path, cache_dir: Path | None = None) -> ModelShape:
    """Read `config.json` (and `generation_config.json` for the end tokens).

    Args:
        folder: Hugging Face folder.
        cache_dir: where it is remembered what transformers makes of `config.json`; None remembers nothing.

    Raises:
        UnsupportedModelError: another architecture, or a variant of a known one that is not implemented.
        BadModelError: `config.json` is broken or lacks what defines the model.
    """
    raw = read_json(folder / "config.json")
    names = raw.get("architectures") or [str(raw.get("model_type"))]
    family = ARCHITECTURES.get(str(names[0]))
    if family is None:
        raise UnsupportedModelError(
            f"{names[0]} is not supported. Supported architectures: {', '.join(ARCHITECTURES)}."
        )
    if raw.get("quantization_config"):
        kind = dict(raw["quantization_config"]).get("quant_method", "of some kind")
        raise UnsupportedModelError(
            f"{folder.name} holds weights that are quantized already ({kind}), which is not supported. Take the "
            "original model, and choose its precision on Optimize."
        )
    try:
        shape = _shape(folder, read_configuration(folder, cache_dir), family)
    except BadModelError:
        raise
    except Exception as error:  # transformers' checks of a configuration raise what they like
        raise BadModelError(
            f"{folder / 'config.json'} does not describe a model: {type(error).__name__}: {error}. {AGAIN}"
        ) from error
    sizes = {"vocab_size": shape.vocab, "hidden_size": shape.hidden, "num_hidden_layers": shape.layers,
             "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_size,
             "intermediate_size": shape.intermediate, "max_position_embeddings": shape.max_positions}  # fmt: skip
    wrong = [name for name, size in sizes.items() if not isinstance(size, int) or size < 1]
    if wrong or shape.heads % shape.kv_heads:
        which = ", ".join(wrong) or "num_attention_heads and num_key_value_heads"
        raise BadModelError(f"{folder / 'config.json'} holds impossible sizes: {which}. {AGAIN}")
    return shape


def _shape(folder: Path, config: dict[str, Any], family: str) -> ModelShape:
    if config["hidden_act"] != "silu":
        raise UnsupportedModelError(f"{family} with activation {config['hidden_act']!r} is not supported (only silu).")
    max_positions, window = config["max_position_embeddings"], config["sliding_window"]
    slides = config["use_sliding_window"] if config["use_sliding_window"] is not None else family == "mistral"
    if window and slides:
        max_positions = min(max_positions, window)  # inside the window both are the same model
    eos = _eos_ids(folder, config["eos_token_id"])
    rotated = config["no_rope_layers"] if family == "smollm3" else None
    return ModelShape(
        family=family,
        vocab=config["vocab_size"],
        hidden=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head_size=config["head_dim"] or config["hidden_size"] // config["num_attention_heads"],
        intermediate=config["intermediate_size"],
        norm_eps=config["rms_norm_eps"],
        max_positions=max_positions,
        tied=bool(config["tie_word_embeddings"]),
        eos_ids=tuple(token for token in eos if type(token) is int and 0 <= token < config["vocab_size"]),
        qkv_bias=bool(config["attention_bias"]) or family == "qwen2",
        unrotated_layers=frozenset(i for i, on in enumerate(rotated or []) if not on),
        rope={"folder": folder, **(config["rope_parameters"] or {})},
    )


def _eos_ids(folder: Path, default: Any) -> tuple[int, ...]:
    file = folder / "generation_config.json"
    value = read_json(file).get("eos_token_id", default) if file.is_file() else default
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (int(value),)


def tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every weight of the folder by name, memory-mapped.

    Raises:
        BadModelError: a file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - not a dict
                    yield name, opened.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise BadModelError(f"{file} cannot be read: {error}. {AGAIN}") from error


def expected_sizes(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """Every weight that a decoder of this shape must have, by name, with its size."""
    s = shape
    queries, states = s.heads * s.head_size, s.kv_heads * s.head_size
    sizes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (s.vocab, s.hidden),
        "model.norm.weight": (s.hidden,),
    }
    if not s.tied:
        sizes["lm_head.weight"] = (s.vocab, s.hidden)
    for i in range(s.layers):
        at = f"model.layers.{i}"
        sizes |= {
            f"{at}.input_layernorm.weight": (s.hidden,),
            f"{at}.post_attention_layernorm.weight": (s.hidden,),
            f"{at}.self_attn.q_proj.weight": (queries, s.hidden),
            f"{at}.self_attn.k_proj.weight": (states, s.hidden),
            f"{at}.self_attn.v_proj.weight": (states, s.hidden),
            f"{at}.self_attn.o_proj.weight": (s.hidden, queries),
            f"{at}.mlp.gate_proj.weight": (s.intermediate, s.hidden),
            f"{at}.mlp.up_proj.weight": (s.intermediate, s.hidden),
            f"{at}.mlp.down_proj.weight": (s.hidden, s.intermediate),
        }
        if s.qkv_bias:
            sizes |= {f"{at}.self_attn.{x}_proj.bias": (states if x in "kv" else queries,) for x in "qkv"}
        if s.family == "qwen3":
            sizes |= {f"{at}.self_attn.{x}_norm.weight": (s.head_size,) for x in "qk"}
    return sizes


def check_sizes(folder: Path, weights: dict[str, torch.Tensor], expected: dict[str, tuple[int, ...]]) -> None:
    """Refuse weights of which one is missing or of another size than `config.json` says.

    Raises:
        BadModelError: names the first few of them.
    """
    missing = [name for name in expected if name not in weights]
    if missing:
        raise BadModelError(f"{folder} lacks {_some(missing)}. {AGAIN}")
    wrong = [
        f"{name} {list(weights[name].shape)} instead of {list(size)}"
        for name, size in expected.items()
        if tuple(weights[name].shape) != size
    ]
    if wrong:
        raise BadModelError(f"{folder} has weights of other sizes than its config.json says: {_some(wrong)}. {AGAIN}")


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest
