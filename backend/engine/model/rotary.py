"""Rotary position encoding (RoFormer, Su et al. 2021): its tables, and its application in plain torch."""

from __future__ import annotations

import torch

from backend.engine.model.configuration import as_transformers
from backend.engine.model.weights import ModelShape, UnsupportedModelError


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
        config = as_transformers(shape.rope["folder"])
        frequencies, scale = ROPE_INIT_FUNCTIONS[kind](config, device, seq_len=positions)
    angles = torch.outer(torch.arange(positions, dtype=torch.float32, device=device), frequencies.float())
    return (angles.cos() * scale).contiguous(), (angles.sin() * scale).contiguous()


def rotate_pairs(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Rotate each pair of elements that lie half a head apart, in float32; returns the dtype of `x`."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1).to(x.dtype)
