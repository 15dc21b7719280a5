"""Products by our own C++ kernels: weights in bf16 or 8 bits, in panels, by what the processor has for them."""

from __future__ import annotations

import ctypes

import torch

from backend.engine.kernels.abi import NativeLinear
from backend.engine.memory import Arena
from backend.engine.quantization.hadamard import order_for, rotated

PANEL = 32
"""Output columns of a weight panel; as in gemm.h."""
PORTABLE = "the compiler's vectors"
"""What `way` says where the kernels have nothing better than the compiler: right, and mostly slower than torch."""


def way(kernels: ctypes.CDLL) -> str:
    """The instructions that the products are built of."""
    return str(kernels.tenfold_way().decode())


_serving: dict[tuple[int, int], bool] = {}


def serve_own(kernels: ctypes.CDLL, bits: int, *, own: bool | None) -> None:
    """Note for this process whether our products of so many bits serve, as was measured; None forgets it."""
    if own is None:
        _serving.pop((kernels._handle, bits), None)
    else:
        _serving[kernels._handle, bits] = own


def is_fast(kernels: ctypes.CDLL | None) -> bool:
    """Whether our products are built of instructions that are meant for them."""
    return kernels is not None and way(kernels) != PORTABLE


def serves(kernels: ctypes.CDLL | None, bits: int) -> bool:
    """Whether our products of so many bits are what serves: as was measured, else where they are fast."""
    return kernels is not None and _serving.get((kernels._handle, bits), is_fast(kernels))


def rows_dtype(kernels: ctypes.CDLL) -> torch.dtype:
    """What activations should be held in: as they meet 16-bit weights. Others are converted at every product."""
    return torch.bfloat16 if kernels.tenfold_rows_are_bf16() else torch.float32


class KernelLinear:
    """CPU: the weight in our own panels, bf16 or 8 bits, multiplied by our own kernel.

    16 bits: activations in bf16 where the processor multiplies them so, else in float32; sums in float32.

    8 bits: symmetric per output channel for the weight, per token for the activations, exact 32-bit sums; both rotated
    before (`hadamard.py`) where that is asked for.

    Args:
        weight: [out, in], in divisible by 4.
        bias: [out] or None.
        kernels: the C++ library.
        arena: where the packed weight lies.
        bits: 16 or 8.
        logits: give float32 whatever the activations are.
        rotates: whether 8 bits are of rotated channels.
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
        rotates: bool = False,
    ) -> None:
        self._n, self._k = weight.shape
        self._rotated = order_for(self._k) if rotates and bits == 8 else 0
        self._kernels, self._bits = kernels, bits
        self._out = torch.float32 if logits else rows_dtype(kernels)
        self._bias = None if bias is None else bias.float().contiguous()
        weight = weight.float()
        if self._rotated:
            weight = rotated(weight, self._rotated) / self._rotated
        self._pack(weight.contiguous(), arena)

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
        held = {"packed": self._packed, "shape": torch.tensor([self._n, self._k, self._bits, self._rotated])}
        if self._bits == 8:
            held |= {"scales": self._scales, "sums": self._sums}
        if self._bias is not None:
            held["bias"] = self._bias
        return held

    @classmethod
    def unpack(cls, held: dict[str, torch.Tensor], kernels: ctypes.CDLL, arena: Arena) -> KernelLinear:
        """A layer from what `packed` gave: no product to prepare, no scale to find."""
        layer = cls.__new__(cls)
        layer._n, layer._k, layer._bits, layer._rotated = held["shape"].tolist()
        layer._kernels, layer._out, layer._bias = kernels, rows_dtype(kernels), held.get("bias")
        layer._packed = arena.empty(held["packed"].numel(), held["packed"].dtype)
        layer._packed.copy_(held["packed"])
        if layer._bits == 8:
            layer._scales, layer._sums = held["scales"].clone(), held["sums"].clone()
        return layer

    def native(self) -> NativeLinear:
        """The layer as the kernels know it."""
        scales, sums = (self._scales.data_ptr(), self._sums.data_ptr()) if self._bits == 8 else (0, 0)
        bias = 0 if self._bias is None else self._bias.data_ptr()
        return NativeLinear(self._packed.data_ptr(), scales, sums, bias, self._n, self._k, self._bits, self._rotated)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer."""
        x = x.contiguous()
        out = torch.empty(x.shape[0], self._n, dtype=self._out)
        self._kernels.tenfold_multiply(
            self.native(), int(x.dtype is torch.bfloat16), x.data_ptr(), out.data_ptr(),
            int(self._out is torch.float32), x.shape[0],
        )  # fmt: skip
        return out
