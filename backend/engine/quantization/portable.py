"""Products on any processor: laid out for oneDNN, and 8 bits by torch's x86 kernel.

A row's result never depends on the rows beside it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from backend.engine.quantization.hadamard import order_for, rotated


class PackedLinear:
    """The weight laid out once for oneDNN's kernel instead of at every call: in bf16 a quarter less time a step.

    A row's results do not depend on how many rows there are, as torch's own product has them, which takes another way
    for one to three. With AMX oneDNN sums in an order that does depend on it, so it is given `AT_ONCE` rows at a time,
    unless `fixed` is false: then rows that belong together have to come alone where `depends_on_count`.
    """

    AT_ONCE = 32
    """Rows; few enough for a step of decoding, and two of AMX's tiles."""

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype, *, fixed: bool = True
    ) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype).contiguous(), None)
        self._bias = None if bias is None else bias.to(dtype)
        varies = dtype is torch.bfloat16 and torch.cpu._is_amx_tile_supported()
        self._fixed, self.depends_on_count = varies and fixed, varies and not fixed

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer."""
        if not self._fixed:
            return self._product(x)
        rows = x.reshape(-1, x.shape[-1])
        padded = F.pad(rows, (0, 0, 0, -len(rows) % self.AT_ONCE))
        out = torch.cat([self._product(some) for some in padded.split(self.AT_ONCE)])
        return out[: len(rows)].view(*x.shape[:-1], -1)

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return out


class RowScaledInt8Linear:
    """CPU int8: per-channel weights in the x86 kernel, per-token activations.

    The kernel quantizes activations with one range per tensor, from its least to its largest number, which ruins a
    decoder. Each row is brought to absmax 1 before and scaled back after, and one row more holds -1 and 1: so the range
    is the same whatever else is in the batch, and so are a row's results. Weight and rows are rotated before.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        weight = weight.float()
        self._rotated = order_for(weight.shape[1])
        if self._rotated:
            weight = rotated(weight, self._rotated) / self._rotated
        scale = weight.abs().amax(dim=1).clamp(min=1e-8) / 127.0
        quantized = torch.quantize_per_channel(
            weight, scale.double(), torch.zeros(len(scale), dtype=torch.int64), 0, torch.qint8
        )
        self._packed = torch.ops.quantized.linear_prepack(quantized, None)
        self._bias = None if bias is None else bias.float()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer."""
        rows = rotated(x.float(), self._rotated) if self._rotated else x.float()
        scale = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-8)
        inputs = rows.new_zeros(rows.shape[0] + 1, rows.shape[1])
        torch.div(rows, scale, out=inputs[:-1])
        inputs[-1, 0], inputs[-1, 1] = -1.0, 1.0
        out: torch.Tensor = torch.ops.quantized.linear_dynamic(inputs, self._packed, True)[:-1] * scale
        if self._bias is not None:
            out += self._bias
        return out.to(x.dtype)
