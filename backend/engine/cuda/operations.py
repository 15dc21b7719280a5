"""The element-wise steps of a decoder's layer as one Triton kernel each, instead of six and two of torch's."""

from __future__ import annotations

import torch
import triton

from backend.engine.cuda import kernels

PIECE = 1024
"""Columns of SwiGLU that one program takes."""


class TritonOps:
    """See `TorchOps`."""

    @staticmethod
    def add_rms_norm(
        residual: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float, dtype: torch.dtype
    ) -> torch.Tensor:
        """See `TorchOps.add_rms_norm`."""
        rows, width = residual.shape
        out = torch.empty(rows, width, dtype=dtype, device=residual.device)
        kernels.add_rms_norm[(rows,)](
            residual, residual if delta is None else delta, weight, out, width, eps,
            ADDS=delta is not None, BLOCK=triton.next_power_of_2(width),
        )  # fmt: skip
        return out

    @staticmethod
    def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
        """See `TorchOps.silu_mul`."""
        rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        out = torch.empty(rows, width, dtype=gate_up.dtype, device=gate_up.device)
        block = min(PIECE, triton.next_power_of_2(width))
        kernels.silu_mul[(rows, triton.cdiv(width, block))](gate_up, out, width, BLOCK=block)
        return out
