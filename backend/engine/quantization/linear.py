"""A product with weights: what every kind has in common, and the plain one."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F


class Linear(Protocol):
    """Maps [rows, in] to [rows, out], both in the model's working dtype."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer."""
        ...


class DenseLinear:
    """The weight in the working dtype."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer."""
        return F.linear(x, self.weight, self.bias)


class LinearFactory(Protocol):
    """Makes a layer from [out, in] weights; `logits` asks for float32 results where that costs nothing."""

    def __call__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, *, name: str = "", logits: bool = False
    ) -> Linear:
        """Make a layer; `name` is "3.down", say."""
        ...


def working_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the device computes in it, else fp32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)() or getattr(
        torch.cpu, "_is_amx_tile_supported", lambda: False
    )()
    return torch.bfloat16 if supported else torch.float32
