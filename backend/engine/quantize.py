"""How a linear layer's weight is held: as it is, or in 8 bits, per device by what is right there."""

from __future__ import annotations

import ctypes
from typing import Protocol

import torch
import torch.nn.functional as F

from backend.engine.kernels import NativeLinear
from backend.engine.memory import Arena

PANEL = 32
"""Output columns of a weight panel; as in gemm.cpp."""


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


class PackedLinear:
    """The weight in bf16, laid out once for oneDNN's kernel instead of at every call: a quarter less time a step."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.to(torch.bfloat16).contiguous(), None)
        self._bias = None if bias is None else bias.to(torch.bfloat16)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer."""
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return out


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
        weight = weight.float().contiguous()
        self._n, self._k = weight.shape
        self._kernels, self._bits = kernels, bits
        self._out = torch.float32 if logits else torch.bfloat16
        self._bias = None if bias is None else bias.float().contiguous()
        padded = -(-self._n // PANEL) * PANEL
        if bits == 8:
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


class RowScaledInt8Linear:
    """CPU int8: per-channel weights in the x86 kernel, per-token activations.

    The kernel quantizes activations with one scale per tensor, which ruins a decoder. Each row is brought to absmax 1
    before and scaled back after, so that the one scale is exact for every row.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        weight = weight.float()
        scale = weight.abs().amax(dim=1).clamp(min=1e-8) / 127.0
        quantized = torch.quantize_per_channel(
            weight, scale.double(), torch.zeros(len(scale), dtype=torch.int64), 0, torch.qint8
        )
        self._packed = torch.ops.quantized.linear_prepack(quantized, None)
        self._bias = None if bias is None else bias.float()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer."""
        rows = x.float()
        scale = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-8)
        out: torch.Tensor = torch.ops.quantized.linear_dynamic(rows / scale, self._packed, True) * scale
        if self._bias is not None:
            out += self._bias
        return out.to(x.dtype)


class BitsAndBytesInt8Linear:
    """CUDA int8 through bitsandbytes: outlier-free vector-wise quantization (LLM.int8(), Dettmers et al. 2022)."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        import bitsandbytes as bnb

        layer = bnb.nn.Linear8bitLt(
            weight.shape[1], weight.shape[0], bias=bias is not None, has_fp16_weights=False, threshold=6.0
        )
        layer.weight = bnb.nn.Int8Params(weight.to(torch.float16).cpu(), has_fp16_weights=False, requires_grad=False)
        if bias is not None:
            layer.bias = torch.nn.Parameter(bias.to(torch.float16), requires_grad=False)
        self._layer = layer.to(weight.device).eval()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer."""
        out: torch.Tensor = self._layer(x.to(torch.float16))
        return out.to(x.dtype)


class LinearFactory(Protocol):
    """Makes a layer from [out, in] weights; `logits` asks for float32 results where that costs nothing."""

    def __call__(self, weight: torch.Tensor, bias: torch.Tensor | None, *, logits: bool = False) -> Linear:
        """Make a layer."""
        ...


def linear_factory(
    variant: str, device: torch.device, kernels: ctypes.CDLL | None
) -> tuple[torch.dtype, LinearFactory]:
    """Return the working dtype of a variant ("fp32", "bf16", "int8") and how its linear layers are made."""
    dtype = torch.float32 if variant == "fp32" else working_dtype(device)
    arena = Arena()

    def make(weight: torch.Tensor, bias: torch.Tensor | None, *, logits: bool = False) -> Linear:
        low = dtype is torch.bfloat16 and device.type == "cpu"
        if low and kernels is not None and KernelLinear.usable(kernels) and weight.shape[1] % 4 == 0:
            # The layer that gives the logits stays in 16 bits: measured, it halves what 8 bits cost in perplexity.
            bits = 8 if variant == "int8" and not logits else 16
            return KernelLinear(weight, bias, kernels, arena, bits=bits, logits=logits)
        if variant == "int8" and device.type == "cuda":
            return BitsAndBytesInt8Linear(weight.to(device), None if bias is None else bias.to(device))
        if variant == "int8":
            return RowScaledInt8Linear(weight, bias)
        if low and torch.backends.mkldnn.is_available():
            return PackedLinear(weight, bias)
        return DenseLinear(weight.to(device, dtype).contiguous(), None if bias is None else bias.to(device, dtype))

    if variant == "int8" and device.type == "cpu" and not KernelLinear.usable(kernels):
        if "x86" not in torch.backends.quantized.supported_engines:
            raise ValueError("int8 needs torch's x86 quantized engine, which this build of torch does not have.")
        torch.backends.quantized.engine = "x86"
    return dtype, make


def working_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the device computes in it, else fp32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)() or getattr(
        torch.cpu, "_is_amx_tile_supported", lambda: False
    )()
    return torch.bfloat16 if supported else torch.float32


def resolve_variant(quantization: str, device: torch.device) -> str:
    """Turn the switch's value into a variant's name; "auto" is bf16 where the device has it."""
    if quantization != "auto":
        return quantization
    return "bf16" if working_dtype(device) is torch.bfloat16 else "fp32"
