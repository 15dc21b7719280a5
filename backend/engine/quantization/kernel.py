"""Products by our own C++ kernels: bf16 or 8 bits in panels, on processors with the instructions for it."""

from __future__ import annotations

import ctypes

import torch

from backend.engine.kernels.abi import NativeLinear
from backend.engine.memory import Arena

PANEL = 32
"""Output columns of a weight panel; as in gemm.cpp."""


class KernelLinear:
    """CPU: the weight in our own panels, bf16 or 8 bits, multiplied by our own kernel.

    8 bits: symmetric per output channel for the weight, per token for the activations, exact 32-bit sums.

    Args:
        weight: [out, in], in divisible by 4.
        bias: [out] or None.
        kernels: the C++ library, with the instructions it needs.
        arena: where the packed weight lies.
        bits: 16 or 8.
        logits: give float32 instead of bf16.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        kernels: ctypes.CDLL,
        arena: Arena,
        *,
        bits: int,
        logits: bool = False,
    ) -> None:
        self._n, self._k = weight.shape
        self._kernels, self._bits = kernels, bits
        self._out = torch.float32 if logits else torch.bfloat16
        self._bias = None if bias is None else bias.float().contiguous()
        self._pack(weight.float().contiguous(), arena)

    def _pack(self, weight: torch.Tensor, arena: Arena) -> None:
        kernels, padded = self._kernels, -(-self._n // PANEL) * PANEL
        if self._bits == 8:
            self._packed = arena.empty(padded * self._k, torch.int8)
            self._scales = torch.empty(padded, dtype=torch.float32)
            self._sums = torch.empty(padded, dtype=torch.int32)
            kernels.tenfold_pack_int8(
                weight.data_ptr(), self._n, self._k,
                self._packed.data_ptr(), self._scales.data_ptr(), self._sums.data_ptr(),
            )
        else:
            self._packed = arena.empty(padded * self._k, torch.bfloat16)
            kernels.tenfold_pack_bf16(weight.data_ptr(), self._n, self._k, self._packed.data_ptr())

    def packed(self) -> dict[str, torch.Tensor]:
        """Everything the layer holds, for `unpack`."""
        held = {"packed": self._packed, "shape": torch.tensor([self._n, self._k, self._bits])}
        if self._bits == 8:
            held |= {"scales": self._scales, "sums": self._sums}
        if self._bias is not None:
            held["bias"] = self._bias
        return held

    @classmethod
    def unpack(cls, held: dict[str, torch.Tensor], kernels: ctypes.CDLL, arena: Arena) -> KernelLinear:
        """A layer from what `packed` gave: no product to prepare, no scale to find."""
        layer = cls.__new__(cls)
        layer._n, layer._k, layer._bits = held["shape"].tolist()
        layer._kernels, layer._out, layer._bias = kernels, torch.bfloat16, held.get("bias")
        layer._packed = arena.empty(held["packed"].numel(), held["packed"].dtype)
        layer._packed.copy_(held["packed"])
        if layer._bits == 8:
            layer._scales, layer._sums = held["scales"].clone(), held["sums"].clone()
        return layer

    def native(self) -> NativeLinear:
        """The layer as the kernels know it."""
        scales, sums = (self._scales.data_ptr(), self._sums.data_ptr()) if self._bits == 8 else (0, 0)
        bias = 0 if self._bias is None else self._bias.data_ptr()
        return NativeLinear(self._packed.data_ptr(), scales, sums, bias, self._n, self._k, self._bits, 0)

    @staticmethod
    def usable(kernels: ctypes.CDLL | None) -> bool:
        """Whether the kernels were built with the instructions that this layer needs."""
        return kernels is not None and bool(kernels.tenfold_has_gemm())

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer."""
        x = x.contiguous()
        rows = x.shape[0]
        out = torch.empty(rows, self._n, dtype=self._out)
        bias = 0 if self._bias is None else self._bias.data_ptr()
        is_float = int(self._out is torch.float32)
        if self._bits == 8:
            self._kernels.tenfold_gemm_int8(
                x.data_ptr(), int(x.dtype is torch.float32), self._packed.data_ptr(), self._scales.data_ptr(),
                self._sums.data_ptr(), bias, out.data_ptr(), is_float, rows, self._n, self._k,
            )
        else:
            self._kernels.tenfold_gemm_bf16(
                x.data_ptr(), self._packed.data_ptr(), bias, out.data_ptr(), is_float, rows, self._n, self._k
            )
        return out
