"""Which kind of product holds a weight: by variant and device, the fastest that is right there."""

from __future__ import annotations

import ctypes

import torch

from backend.engine.memory import Arena
from backend.engine.quantization.bits_and_bytes import BitsAndBytesLinear, forbid_hub_kernels
from backend.engine.quantization.kernel import KernelLinear
from backend.engine.quantization.linear import DenseLinear, Linear, LinearFactory, working_dtype
from backend.engine.quantization.portable import PackedLinear, RowScaledInt8Linear

LOW_BITS = ("int8", "mixed")
"""Variants whose layers are held in 8 bits, smoothed, on a processor."""


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
            return BitsAndBytesLinear(weight, bias, device, dtype, four_bit=variant == "nf4")
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


def resolve_variant(quantization: str, device: torch.device) -> str:
    """The variant that a value of the switch comes to on a device, by the name of what it really is.

    "auto" and "bf16" are bf16 where the device computes in it, else fp32; 8 bits on a GPU are LLM.int8().
    """
    if quantization in ("auto", "bf16"):
        return "bf16" if working_dtype(device) is torch.bfloat16 else "fp32"
    if quantization in LOW_BITS and device.type == "cuda":
        return "bnb-int8"
    return quantization
