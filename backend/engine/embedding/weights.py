"""Reads a Hugging Face folder into the tensors and the shape that the encoder needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from backend.engine.model.weights import UnsupportedModelError, check_sizes, tensors
from backend.models.checkpoint import AGAIN, BadModelError, read_json

PRODUCTS = ("qkv", "output", "inner", "outer")
SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "max_position_embeddings",
         "vocab_size")  # fmt: skip


@dataclass(frozen=True)
class EncoderShape:
    """The numbers that define a BERT encoder."""

    layers: int
    hidden: int
    heads: int
    intermediate: int
    positions: int
    vocab: int
    token_types: int
    eps: float
    pool_first: bool  # the first token's row is the vector, instead of the mean

    @property
    def pooling(self) -> str:
        """"first" or "mean"."""
        return "first" if self.pool_first else "mean"

    @property
    def products(self) -> list[str]:
        """Names of all products: "0.qkv", "0.output" and so on."""
        return [f"{i}.{name}" for i in range(self.layers) for name in PRODUCTS]

    def operations(self, lengths: list[int]) -> tuple[float, float]:
        """Of the products with weights, and of attention, for texts of these lengths."""
        products = 2.0 * self.layers * (4 * self.hidden**2 + 2 * self.hidden * self.intermediate)
        return products * sum(lengths), 4.0 * self.layers * self.hidden * sum(n * n for n in lengths)


def read_encoder_shape(folder: Path) -> EncoderShape:
    """Read `config.json`, and how sentence-transformers pools where it says so.

    Raises:
        UnsupportedModelError: another architecture, or a variant of it that is not implemented.
        BadModelError: `config.json` is broken or lacks what defines the model.
    """
    config = read_json(folder / "config.json")
    if config.get("model_type") != "bert" or config.get("hidden_act", "gelu") != "gelu":
        kind = f"{config.get('model_type')}, {config.get('hidden_act')}"
        raise UnsupportedModelError(f"Embedding models of type {kind!r} are not supported (only bert with gelu).")
    pooling = folder / "1_Pooling" / "config.json"
    first = pooling.is_file() and bool(read_json(pooling).get("pooling_mode_cls_token"))
    missing = [name for name in SIZES if not isinstance(config.get(name), int) or config[name] < 1]
    if missing:
        raise BadModelError(f"{folder / 'config.json'} lacks {', '.join(missing)}. {AGAIN}")
    if config["hidden_size"] % config["num_attention_heads"]:
        raise BadModelError(f"{folder / 'config.json'}: num_attention_heads do not divide hidden_size. {AGAIN}")
    return EncoderShape(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=config["num_attention_heads"],
        intermediate=config["intermediate_size"],
        positions=config["max_position_embeddings"],
        vocab=config["vocab_size"],
        token_types=int(config.get("type_vocab_size", 2)),
        eps=float(config.get("layer_norm_eps", 1e-12)),
        pool_first=first,
    )


Weights = dict[str, torch.Tensor]
"""By short names: "words", "places", "norm", "3.qkv", "3.output", "3.inner", "3.outer", "3.attention_norm",
"3.outer_norm"; biases behind ".bias"."""


def read_weights(folder: Path, shape: EncoderShape) -> Weights:
    """Load the weights, queries, keys and values as one product, the only token type within the places.

    Raises:
        BadModelError: one is missing, of another size than `config.json` says, or cannot be read.
    """
    raw = {name.removeprefix("bert."): tensor.float() for name, tensor in tensors(folder) if tensor.is_floating_point()}
    check_sizes(folder, raw, _expected_sizes(shape))
    out = {
        "words": raw["embeddings.word_embeddings.weight"].contiguous(),
        "places": raw["embeddings.position_embeddings.weight"] + raw["embeddings.token_type_embeddings.weight"][0],
        "norm": raw["embeddings.LayerNorm.weight"],
        "norm.bias": raw["embeddings.LayerNorm.bias"],
    }
    for i in range(shape.layers):
        at = f"encoder.layer.{i}"
        for theirs, ours in (("weight", ""), ("bias", ".bias")):
            parts = [raw[f"{at}.attention.self.{x}.{theirs}"] for x in ("query", "key", "value")]
            out[f"{i}.qkv{ours}"] = torch.cat(parts)
            for name, short in (
                ("attention.output.dense", "output"),
                ("attention.output.LayerNorm", "attention_norm"),
                ("intermediate.dense", "inner"),
                ("output.dense", "outer"),
                ("output.LayerNorm", "outer_norm"),
            ):
                out[f"{i}.{short}{ours}"] = raw[f"{at}.{name}.{theirs}"].contiguous()
    return out


def _expected_sizes(shape: EncoderShape) -> dict[str, tuple[int, ...]]:
    hidden, inner = shape.hidden, shape.intermediate
    sizes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (shape.vocab, hidden),
        "embeddings.position_embeddings.weight": (shape.positions, hidden),
        "embeddings.token_type_embeddings.weight": (shape.token_types, hidden),
    }
    products = {f"attention.self.{x}": (hidden, hidden) for x in ("query", "key", "value")} | {
        "attention.output.dense": (hidden, hidden),
        "intermediate.dense": (inner, hidden),
        "output.dense": (hidden, inner),
    }
    norms = ["embeddings.LayerNorm"]
    for i in range(shape.layers):
        at = f"encoder.layer.{i}"
        norms += [f"{at}.attention.output.LayerNorm", f"{at}.output.LayerNorm"]
        for name, size in products.items():
            sizes |= {f"{at}.{name}.weight": size, f"{at}.{name}.bias": size[:1]}
    return sizes | {f"{norm}.{part}": (hidden,) for norm in norms for part in ("weight", "bias")}
