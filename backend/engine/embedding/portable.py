"""The encoder in torch, on any device: sequences end to end, without padding."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from backend.engine.embedding.weights import EncoderShape, Weights
from backend.engine.quantization.linear import Linear


class TorchForward:
    """The encoder in torch, on any device.

    Args:
        shape: of the model.
        weights: in float32.
        device: where it runs.
        linears: products by name, "3.qkv"; their inputs and outputs are of `dtype`.
        dtype: of everything else.
    """

    together = 1

    def __init__(
        self,
        shape: EncoderShape,
        weights: Weights,
        device: torch.device,
        linears: dict[str, Linear],
        dtype: torch.dtype,
    ) -> None:
        self._shape, self._device, self._linears = shape, device, linears
        others = {name: tensor for name, tensor in weights.items() if name.removesuffix(".bias") not in linears}
        self._w = {name: tensor.to(device, dtype) for name, tensor in others.items()}
        by = type(linears[shape.products[0]]).__name__  # whose products: a vector's bits depend on it
        self._alone = any(getattr(linear, "depends_on_count", False) for linear in linears.values())
        self.precision = f"torch-{by}-{str(dtype).removeprefix('torch.')}-{shape.pooling}"

    @torch.inference_mode()
    def __call__(self, inputs: list[list[int]]) -> np.ndarray:
        """See `Forward`."""
        parts = [self.rows([text]) for text in inputs] if self._alone else [self.rows(inputs)]
        return torch.cat(parts).float().cpu().numpy()

    def rows(self, inputs: list[list[int]], seen: Callable[[str, torch.Tensor], None] | None = None) -> torch.Tensor:
        """Vectors [inputs, hidden]; `seen` is told the input of every product."""
        shape, w = self._shape, self._w
        lengths = [len(tokens) for tokens in inputs]
        ids = torch.tensor([token for tokens in inputs for token in tokens], device=self._device)
        positions = torch.cat([torch.arange(n) for n in lengths]).to(self._device)

        def norm(x: torch.Tensor, name: str) -> torch.Tensor:
            return F.layer_norm(x, (shape.hidden,), w[name], w[f"{name}.bias"], shape.eps)

        def product(name: str, x: torch.Tensor) -> torch.Tensor:
            if seen is not None:
                seen(name, x)
            return self._linears[name](x)

        x = norm(F.embedding(ids, w["words"]) + w["places"][positions], "norm")
        for i in range(shape.layers):
            attended = self._attend(product(f"{i}.qkv", x), lengths)
            x = norm(x + product(f"{i}.output", attended), f"{i}.attention_norm")
            x = norm(x + product(f"{i}.outer", F.gelu(product(f"{i}.inner", x))), f"{i}.outer_norm")
        pooled = [text[0] if shape.pool_first else text.float().mean(0) for text in x.split(lengths)]
        return F.normalize(torch.stack(pooled), dim=-1)

    def _attend(self, qkv: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        """Attention within each text, texts of one length together."""
        out = qkv.new_empty(qkv.shape[0], qkv.shape[1] // 3)
        at = 0
        for length, texts in itertools.groupby(lengths):
            count = len(list(texts))
            rows = slice(at, at + count * length)
            q, k, v = qkv[rows].view(count, length, 3, self._shape.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
            out[rows] = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(count * length, -1)
            at += count * length
        return out
