"""Which kind of product holds a weight: by variant and device, the fastest that is right there."""

from __future__ import annotations

import ctypes

import torch

from backend.engine.memory import Arena
from backend.engine.quantization.bits_and_bytes import BitsAndBytesLinear, forbid_hub_kernels
from backend.engine.quantization.kernel import KernelLinear, rows_dtype, serves
from backend.engine.quantization.linear import DenseLinear, Linear, LinearFactory, working_dtype
from backend.engine.quantization.portable import PackedLinear, RowScaledInt8Linear

LOW_BITS = ("int8", "mixed")
"""Variants whose layers are held in 8 bits on a processor."""


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
        invariant: on a processor a row's result must not depend on the rows beside it, in float32 too; the caller looks
            after it where a layer's `depends_on_count` says so.

    Raises:
        ValueError: this machine cannot hold weights so; says why.
    """
    cpu = device.type == "cpu"
    own = holds_16_bits(variant, device, kernels)
    dtype = torch.float32 if variant == "fp32" else working_dtype(device)
    if own and kernels is not None:
        dtype = rows_dtype(kernels)
    arena = Arena()
    foreign = variant in ("nf4", "bnb-int8")

    def make(
        weight: torch.Tensor, bias: torch.Tensor | None, *, name: str = "", logits: bool = False
    ) -> Linear:
        # The layer that gives the logits stays in 16 bits: measured, it halves what 8 bits cost in perplexity.
        low = not logits and name not in high
        if foreign and low:
            return BitsAndBytesLinear(weight, bias, device, dtype, four_bit=variant == "nf4")
        bits = 8 if variant in LOW_BITS and low else 16
        ours = own if bits == 16 else cpu and (serves(kernels, 8) or no_engine)
        if ours and kernels is not None and weight.shape[1] % 4 == 0:
            return KernelLinear(weight, bias, kernels, arena, bits=bits, logits=logits, rotates=True)
        if bits == 8:
            return RowScaledInt8Linear(weight, bias)
        # Beside layers in 8 bits a difference in the last bit becomes a whole step, so float32 is packed there as well.
        packs = cpu and (dtype is torch.bfloat16 or invariant or variant in LOW_BITS)
        if packs and torch.backends.mkldnn.is_available():
            return PackedLinear(weight, bias, dtype, fixed=not invariant)
        return DenseLinear(weight.to(device, dtype).contiguous(), None if bias is None else bias.to(device, dtype))

    no_engine = "x86" not in torch.backends.quantized.supported_engines
    if variant in LOW_BITS and cpu:
        if not no_engine:
            torch.backends.quantized.engine = "x86"
        elif kernels is None:
            raise ValueError(
                "int8 needs our C++ kernels or torch's x86 quantized engine, and here is neither. A C++ compiler "
                "(g++ or clang++) brings the first."
            )
    if foreign:
        if not hub_kernels:
            forbid_hub_kernels()
        try:
            import bitsandbytes  # noqa: F401 - only asked for here
        except ImportError as error:
            raise ValueError(f"{variant} needs bitsandbytes, which cannot be imported: {error}.") from error
    return dtype, make


def holds_16_bits(variant: str, device: torch.device, kernels: ctypes.CDLL | None) -> bool:
    """Whether what a variant holds in 16 bits lies in our own panels, whatever activations are."""
    return variant != "fp32" and device.type == "cpu" and serves(kernels, 16)


def resolve_variant(quantization: str, device: torch.device, kernels: ctypes.CDLL | None) -> str:
    """The variant that a value of the switch comes to on a device, by the name of what it really is.

    "auto" and "bf16" are bf16 where weights can be held so, else fp32; 8 bits on a GPU are LLM.int8().
    """
    if quantization in ("auto", "bf16"):
        bf16 = working_dtype(device) is torch.bfloat16 or holds_16_bits("bf16", device, kernels)
        return "bf16" if bf16 else "fp32"
    if quantization in LOW_BITS and device.type == "cuda":
        return "bnb-int8"
    return quantization
