"""How a linear layer's weight is held: as it is, or in 8 bits, per device by what is right there."""

from __future__ import annotations

import ctypes
import sys
from typing import Protocol

import torch
import torch.nn.functional as F

from backend.engine.kernels.build import NativeLinear
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
    """The weight laid out once for oneDNN's kernel instead of at every call: in bf16 a quarter less time a step.

    A row's results do not depend on how many rows there are, as torch's own product has them, which takes another way
    for one to three.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype).contiguous(), None)
        self._bias = None if bias is None else bias.to(dtype)

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


class RowScaledInt8Linear:
    """CPU int8: per-channel weights in the x86 kernel, per-token activations.

    The kernel quantizes activations with one range per tensor, from its least to its largest number, which ruins a
    decoder. Each row is brought to absmax 1 before and scaled back after, and one row more holds -1 and 1: so the range
    is the same whatever else is in the batch, and so are a row's results.
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
        inputs = rows.new_zeros(rows.shape[0] + 1, rows.shape[1])
        torch.div(rows, scale, out=inputs[:-1])
        inputs[-1, 0], inputs[-1, 1] = -1.0, 1.0
        out: torch.Tensor = torch.ops.quantized.linear_dynamic(inputs, self._packed, True)[:-1] * scale
        if self._bias is not None:
            out += self._bias
        return out.to(x.dtype)


class BitsAndBytesLinear:
    """bitsandbytes' formats, on CUDA and on processors: the least memory, for models that do not fit otherwise.

    Args:
        weight: [out, in].
        bias: [out] or None.
        device: where it runs.
        four_bit: NF4 (QLoRA, Dettmers et al. 2023) instead of LLM.int8() (Dettmers et al. 2022).
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, device: torch.device, *, four_bit: bool
    ) -> None:
        import bitsandbytes as bnb

        rows, columns = weight.shape
        self._dtype = working_dtype(device)
        if four_bit:
            layer = bnb.nn.Linear4bit(
                columns, rows, bias=bias is not None, compute_dtype=self._dtype, quant_type="nf4"
            )
            layer.weight = bnb.nn.Params4bit(
                weight.to(self._dtype).contiguous(), requires_grad=False, quant_type="nf4"
            )
        else:
            self._dtype = torch.float16  # what it computes in anyway
            layer = bnb.nn.Linear8bitLt(
                columns, rows, bias=bias is not None, has_fp16_weights=False, threshold=6.0
            )
            layer.weight = bnb.nn.Int8Params(
                weight.to(self._dtype).cpu().contiguous(), has_fp16_weights=False, requires_grad=False
            )
        if bias is not None:
            layer.bias = torch.nn.Parameter(bias.to(self._dtype), requires_grad=False)
        self._layer = layer.to(device).eval()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer."""
        out: torch.Tensor = self._layer(x.to(self._dtype))
        return out.to(x.dtype)


LOW_BITS = ("int8", "mixed")
"""Variants whose layers are held in 8 bits, smoothed, on a processor."""


class LinearFactory(Protocol):
    """Makes a layer from [out, in] weights; `logits` asks for float32 results where that costs nothing."""

    def __call__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, *, name: str = "", logits: bool = False
    ) -> Linear:
        """Make a layer; `name` is "3.down", say."""
        ...


def linear_factory(
    variant: str,
    device: torch.device,
    kernels: ctypes.CDLL | None,
    high: frozenset[str] = frozenset(),
    *,
    hub_kernels: bool = False,
    invariant: bool = False,
) -> tuple[torch.dtype, LinearFactory]:
    """Return the working dtype of a variant and how its linear layers are made.

    Args:
        variant: what `resolve_variant` gave.
        device: where it runs.
        kernels: the C++ library, or None.
        high: names of layers that a low-bit variant keeps in 16 bits.
        hub_kernels: bitsandbytes may fetch kernels from a hub.
        invariant: on a processor a row's result must not depend on the rows beside it, in float32 too.

    Raises:
        ValueError: this machine cannot hold weights so; says why.
    """
    dtype = torch.float32 if variant == "fp32" else working_dtype(device)
    arena = Arena()
    cpu = device.type == "cpu"
    foreign = variant in ("nf4", "bnb-int8")

    def make(
        weight: torch.Tensor, bias: torch.Tensor | None, *, name: str = "", logits: bool = False
    ) -> Linear:
        # The layer that gives the logits stays in 16 bits: measured, it halves what 8 bits cost in perplexity.
        low = not logits and name not in high
        if foreign and low:
            return BitsAndBytesLinear(weight, bias, device, four_bit=variant == "nf4")
        fast = dtype is torch.bfloat16 and cpu
        if fast and kernels is not None and KernelLinear.usable(kernels) and weight.shape[1] % 4 == 0:
            bits = 8 if variant in LOW_BITS and low else 16
            return KernelLinear(weight, bias, kernels, arena, bits=bits, logits=logits)
        if variant in LOW_BITS and low:
            return RowScaledInt8Linear(weight, bias)
        # Beside layers in 8 bits a difference in the last bit becomes a whole step, so float32 is packed there as well.
        if cpu and (fast or invariant or variant in LOW_BITS) and torch.backends.mkldnn.is_available():
            return PackedLinear(weight, bias, dtype)
        return DenseLinear(weight.to(device, dtype).contiguous(), None if bias is None else bias.to(device, dtype))

    if variant in LOW_BITS and cpu:
        if "x86" in torch.backends.quantized.supported_engines:
            torch.backends.quantized.engine = "x86"
        elif not KernelLinear.usable(kernels):
            raise ValueError("int8 needs torch's x86 quantized engine, which this build of torch does not have.")
    if foreign:
        if not hub_kernels:
            forbid_hub_kernels()
        try:
            import bitsandbytes  # noqa: F401 - only asked for here
        except ImportError as error:
            raise ValueError(f"{variant} needs bitsandbytes, which cannot be imported: {error}.") from error
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
    """The variant that a value of the switch comes to on a device, by the name of what it really is.

    "auto" and "bf16" are bf16 where the device computes in it, else fp32; 8 bits on a GPU are LLM.int8().
    """
    if quantization in ("auto", "bf16"):
        return "bf16" if working_dtype(device) is torch.bfloat16 else "fp32"
    if quantization in LOW_BITS and device.type == "cuda":
        return "bnb-int8"
    return quantization


def forbid_hub_kernels() -> None:
    """Make `import kernels` fail in this process: through it bitsandbytes' 4-bit asks a hub for code, unasked."""
    sys.modules["kernels"] = None  # type: ignore[assignment]
