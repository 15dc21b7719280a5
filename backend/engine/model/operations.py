"""The element-wise steps of a decoder's layer: in plain torch for any device, and by the C++ kernels."""

from __future__ import annotations

import ctypes
import logging
from typing import Protocol

import torch
import torch.nn.functional as F

log = logging.getLogger("tenfold.engine")


class Operations(Protocol):
    """The element-wise steps."""

    def add_rms_norm(
        self, residual: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float, dtype: torch.dtype
    ) -> torch.Tensor:
        """Add `delta` to `residual` in place, then return its RMS norm (Zhang & Sennrich 2019) in `dtype`."""
        ...

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """SwiGLU (Shazeer 2020): silu(gate) × up."""
        ...


def operations_for(device: torch.device, width: int) -> Operations:
    """Triton's kernels on a GPU on which they give what plain torch gives, else plain torch."""
    if device.type != "cuda":
        return TorchOps()
    try:
        from backend.engine.cuda.operations import TritonOps

        check(TritonOps(), device, width)
        return TritonOps()
    except Exception:  # whatever a compiler or a driver says to it, there is another way
        log.warning("our Triton kernels cannot be used for a layer's steps", exc_info=True)
        return TorchOps()


def check(operations: Operations, device: torch.device, width: int) -> None:
    """Hold operations against plain torch's on made-up rows.

    Raises:
        ValueError: they differ.
    """
    random = torch.Generator().manual_seed(0)
    x, y, both = (torch.randn(5, n, generator=random).to(device, torch.bfloat16) for n in (width, width, 2 * width))
    weight = torch.rand(width, generator=random).to(device)
    results = []
    for each in (TorchOps(), operations):
        residual = x.clone()
        normed = each.add_rms_norm(residual, y, weight, 1e-5, torch.bfloat16)
        results.append(torch.cat((residual, normed, each.silu_mul(both))).float())
    worst = float((results[0] - results[1]).abs().max())
    if not worst <= 0.05:
        raise ValueError(f"their results differ by {worst:.3g} from plain torch's")


class TorchOps:
    """The element-wise steps in plain torch, for any device."""

    @staticmethod
    def add_rms_norm(
        residual: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float, dtype: torch.dtype
    ) -> torch.Tensor:
        """See `Operations.add_rms_norm`."""
        if delta is not None:
            residual += delta
        x = residual.float()
        return (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight).to(dtype)

    @staticmethod
    def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
        """SwiGLU (Shazeer 2020): silu(gate) × up."""
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up


class KernelOps:
    """The same steps through the C++ kernels."""

    def __init__(self, kernels: ctypes.CDLL) -> None:
        self._kernels = kernels

    def add_rms_norm(
        self, residual: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float, dtype: torch.dtype
    ) -> torch.Tensor:
        """See `TorchOps.add_rms_norm`."""
        out = torch.empty(residual.shape, dtype=dtype)
        self._kernels.tenfold_add_rms_norm(
            int(dtype is torch.bfloat16),
            residual.data_ptr(),
            0 if delta is None else delta.data_ptr(),
            weight.data_ptr(),
            out.data_ptr(),
            *residual.shape,
            eps,
        )
        return out

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """See `TorchOps.silu_mul`."""
        tokens, width = gate_up.shape[0], gate_up.shape[1] // 2
        out = torch.empty(tokens, width, dtype=gate_up.dtype)
        self._kernels.tenfold_silu_mul(
            int(gate_up.dtype is torch.bfloat16), gate_up.data_ptr(), out.data_ptr(), tokens, width
        )
        return out
