"""Rotation by Walsh-Hadamard matrices, so that no channel of a row stands out when it is held in 8 bits.

A product with `x` is the same as one of the rotated `x` with the rotated weight (QuIP#, Tseng et al. 2024; QuaRot,
Ashkboos et al. 2024): the weight is rotated once, a row just before it is quantized. Nothing needs calibrating.
"""

from __future__ import annotations

import torch

LEAST_ORDER, MOST_ORDER = 16, 512


def order_for(channels: int) -> int:
    """Consecutive channels that are rotated together: the largest power of two that divides them, or 0 for none."""
    order = min(channels & -channels, MOST_ORDER)
    return order if order >= LEAST_ORDER else 0


def rotated(x: torch.Tensor, order: int) -> torch.Tensor:
    """Each `order` consecutive numbers of float32 [rows, channels] times the Hadamard matrix of ones and minus ones.

    Not normalized: twice is `order` times `x`. In the order of additions of the C++ kernels (hadamard.h).
    """
    rows, channels = x.shape
    x = x.reshape(rows, channels // order, order)
    strides = [*reversed([1 << i for i in range(4)]), *(1 << i for i in range(4, order.bit_length() - 1))]
    for stride in strides:  # within 16 first, the way they lie in a register
        pairs = x.view(rows, channels // order, order // (2 * stride), 2, stride)
        low, high = pairs[..., 0, :], pairs[..., 1, :]
        x = torch.stack((low + high, low - high), dim=-2).view(rows, channels // order, order)
    return x.view(rows, channels)
