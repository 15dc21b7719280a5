"""The embedding model: a BERT-family encoder, mean-pooled and normalized (MiniLM, BGE, E5 and their kin).

Sequences are laid end to end, without padding, and every step works token by token or within one sequence. With our own
matrix products the vector of a text is therefore the same to the last bit whatever else is in the batch.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from backend.engine.quantize import KernelLinear, Linear, linear_factory, working_dtype
from backend.engine.weights import UnsupportedModelError, tensors

BATCH_TOKENS = 4096
"""Tokens one forward pass computes at most; bounds memory and how long a decode step waits."""


class Encoder:
    """Weights and forward pass of a BERT encoder.

    Args:
        folder: Hugging Face folder.
        device: where it runs.
        kernels: the C++ library, or None for torch's products.
    """

    def __init__(self, folder: Path, device: torch.device, kernels: ctypes.CDLL | None = None) -> None:
        config = json.loads((folder / "config.json").read_text())
        if config.get("model_type") != "bert":
            raise UnsupportedModelError(f"Embedding model type {config.get('model_type')!r} is not supported (bert).")
        self.device, self.dtype = device, working_dtype(device)
        self.heads: int = config["num_attention_heads"]
        self.dimension: int = config["hidden_size"]
        self.max_tokens: int = config["max_position_embeddings"]
        self.vocab: int = config["vocab_size"]
        self._eps: float = config["layer_norm_eps"]
        self._layers: int = config["num_hidden_layers"]
        raw = {name.removeprefix("bert."): tensor for name, tensor in tensors(folder)}
        variant = "bf16" if self.dtype is torch.bfloat16 else "fp32"
        _, make = linear_factory(variant, device, kernels)
        self._linears: dict[str, Linear] = {}
        for i in range(self._layers):
            at = f"encoder.layer.{i}"
            parts = [f"{at}.attention.self.{x}" for x in ("query", "key", "value")]
            weight = torch.cat([raw.pop(f"{part}.weight") for part in parts])
            self._linears[f"{at}.qkv"] = make(weight, torch.cat([raw.pop(f"{part}.bias") for part in parts]))
            for name in ("attention.output.dense", "intermediate.dense", "output.dense"):
                self._linears[f"{at}.{name}"] = make(raw.pop(f"{at}.{name}.weight"), raw.pop(f"{at}.{name}.bias"))
        self._w = {name: tensor.to(device, self.dtype) for name, tensor in raw.items() if tensor.is_floating_point()}
        first = next(iter(self._linears.values()))
        self.precision = f"{variant}-{'kernel' if isinstance(first, KernelLinear) else 'torch'}-2"

    def embed(self, inputs: list[list[int]], between: Callable[[], None] | None = None) -> np.ndarray:
        """Embed token sequences; returns float32 [inputs, dimension], each row of length 1.

        `between` is called after each forward pass.
        """
        out = np.empty((len(inputs), self.dimension), dtype=np.float32)
        for rows in self._batches(inputs):
            out[rows] = self._forward([inputs[i] for i in rows]).cpu().numpy()
            if between is not None:
                between()
        return out

    @staticmethod
    def _batches(inputs: list[list[int]]) -> Iterator[list[int]]:
        """Rows of one forward pass each, by length, so that equal lengths share their attention."""
        order = sorted(range(len(inputs)), key=lambda i: len(inputs[i]))
        start = tokens = 0
        for at, row in enumerate(order):
            tokens += len(inputs[row])
            if tokens > BATCH_TOKENS and at > start:
                yield order[start:at]
                start, tokens = at, len(inputs[row])
        if start < len(order):
            yield order[start:]

    @torch.inference_mode()
    def _forward(self, inputs: list[list[int]]) -> torch.Tensor:
        w = self._w
        lengths = [len(tokens) for tokens in inputs]
        ids = torch.tensor([token for tokens in inputs for token in tokens], device=self.device)
        positions = torch.cat([torch.arange(n) for n in lengths]).to(self.device)
        groups: list[tuple[int, int, int]] = []  # first token, sequences, length
        at = 0
        for n in lengths:
            if groups and groups[-1][2] == n:
                groups[-1] = (groups[-1][0], groups[-1][1] + 1, n)
            else:
                groups.append((at, 1, n))
            at += n

        def norm(x: torch.Tensor, name: str) -> torch.Tensor:
            return F.layer_norm(x, (self.dimension,), w[f"{name}.weight"], w[f"{name}.bias"], self._eps)

        x = F.embedding(ids, w["embeddings.word_embeddings.weight"])
        x = x + w["embeddings.position_embeddings.weight"][positions]
        x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for i in range(self._layers):
            at_layer = f"encoder.layer.{i}"
            attended = self._attend(self._linears[f"{at_layer}.qkv"](x), groups)
            attended = self._linears[f"{at_layer}.attention.output.dense"](attended)
            x = norm(x + attended, f"{at_layer}.attention.output.LayerNorm")
            inner = F.gelu(self._linears[f"{at_layer}.intermediate.dense"](x))
            x = norm(x + self._linears[f"{at_layer}.output.dense"](inner), f"{at_layer}.output.LayerNorm")
        pooled = torch.cat([x[a : a + c * n].view(c, n, -1).float().sum(1) / n for a, c, n in groups])
        return F.normalize(pooled, dim=-1)

    def _attend(self, qkv: torch.Tensor, groups: list[tuple[int, int, int]]) -> torch.Tensor:
        out = torch.empty(qkv.shape[0], self.dimension, dtype=qkv.dtype, device=qkv.device)
        for at, count, length in groups:
            rows = slice(at, at + count * length)
            q, k, v = qkv[rows].view(count, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
            out[rows] = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(count * length, -1)
        return out
