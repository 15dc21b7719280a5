"""The embedding model: a BERT-family encoder, mean-pooled and normalized (MiniLM, BGE, E5 and their kin)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from backend.engine.quantize import working_dtype
from backend.engine.weights import UnsupportedModelError, tensors

BATCH_TOKENS = 4096
"""Padded tokens one forward pass computes at most; bounds memory and how long a decode step waits."""


class Encoder:
    """Weights and forward pass of a BERT encoder."""

    def __init__(self, folder: Path, device: torch.device) -> None:
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
        self._w = {name: tensor.to(device, self.dtype) for name, tensor in raw.items() if tensor.is_floating_point()}
        for i in range(self._layers):
            at = f"encoder.layer.{i}.attention.self"
            for kind in ("weight", "bias"):
                self._w[f"{at}.qkv.{kind}"] = torch.cat([self._w.pop(f"{at}.{x}.{kind}") for x in _QKV])

    def embed(self, inputs: list[list[int]], between: Callable[[], None] | None = None) -> np.ndarray:
        """Embed token sequences; returns float32 [inputs, dimension], each row of length 1.

        Sequences are sorted by length, so that a batch pads little. `between` is called after each forward pass.
        """
        out = np.empty((len(inputs), self.dimension), dtype=np.float32)
        order = sorted(range(len(inputs)), key=lambda i: len(inputs[i]))
        start = 0
        while start < len(order):
            end = start + 1
            while end < len(order) and len(inputs[order[end]]) * (end + 1 - start) <= BATCH_TOKENS:
                end += 1
            rows = order[start:end]
            out[rows] = self._forward([inputs[i] for i in rows]).cpu().numpy()
            start = end
            if between is not None:
                between()
        return out

    @torch.inference_mode()
    def _forward(self, inputs: list[list[int]]) -> torch.Tensor:
        w, longest = self._w, max(map(len, inputs))
        ids = torch.zeros(len(inputs), longest, dtype=torch.int64)
        mask = torch.zeros(len(inputs), longest, dtype=torch.bool)
        for i, tokens in enumerate(inputs):
            ids[i, : len(tokens)] = torch.tensor(tokens)
            mask[i, : len(tokens)] = True
        ids, mask = ids.to(self.device), mask.to(self.device)

        def norm(x: torch.Tensor, name: str) -> torch.Tensor:
            return F.layer_norm(x, (self.dimension,), w[f"{name}.weight"], w[f"{name}.bias"], self._eps)

        def linear(x: torch.Tensor, name: str) -> torch.Tensor:
            return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

        x = F.embedding(ids, w["embeddings.word_embeddings.weight"])
        x = x + w["embeddings.position_embeddings.weight"][:longest] + w["embeddings.token_type_embeddings.weight"][0]
        x = norm(x, "embeddings.LayerNorm")
        whole = bool(mask.all())
        for i in range(self._layers):
            at = f"encoder.layer.{i}"
            q, k, v = linear(x, f"{at}.attention.self.qkv").unflatten(-1, (3, self.heads, -1)).unbind(2)
            attended = F.scaled_dot_product_attention(
                q.transpose(1, 2),
                k.transpose(1, 2),
                v.transpose(1, 2),
                attn_mask=None if whole else mask[:, None, None, :],
            )
            attended = linear(attended.transpose(1, 2).flatten(2), f"{at}.attention.output.dense")
            x = norm(x + attended, f"{at}.attention.output.LayerNorm")
            inner = F.gelu(linear(x, f"{at}.intermediate.dense"))
            x = norm(x + linear(inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")
        weights = mask.unsqueeze(-1).float()
        pooled = (x.float() * weights).sum(1) / weights.sum(1)
        return F.normalize(pooled, dim=-1)


_QKV = ("query", "key", "value")
