"""bitsandbytes' formats, imported only where they are asked for."""

from __future__ import annotations

import sys

import torch


class BitsAndBytesLinear:
    """bitsandbytes' formats, on CUDA and on processors: the least memory, for models that do not fit otherwise.

    Args:
        weight: [out, in].
        bias: [out] or None.
        device: where it runs.
        dtype: computed in.
        four_bit: NF4 (QLoRA, Dettmers et al. 2023) instead of LLM.int8() (Dettmers et al. 2022).
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, device: torch.device, dtype: torch.dtype, *,
        four_bit: bool,
    ) -> None:  # fmt: skip
        import bitsandbytes as bnb

        rows, columns = weight.shape
        self._dtype = dtype
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


def forbid_hub_kernels() -> None:
    """Make `import kernels` fail in this process: through it bitsandbytes' 4-bit asks a hub for code, unasked."""
    sys.modules["kernels"] = None  # type: ignore[assignment]
