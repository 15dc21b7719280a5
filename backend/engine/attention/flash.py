"""FlashAttention over block tables on CUDA, as torch brings it along."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable
from typing import Any

import torch

from backend.engine.attention.base import AttentionShape, Batch
from backend.engine.attention.gather import GatherAttention, split_and_rotate

log = logging.getLogger("tenfold.engine")

VarlenKernel = Callable[..., Any]
"""`torch.nn.attention.varlen.varlen_attn`, or what stands for it in a test."""


class VarlenAttention(GatherAttention):
    """CUDA: FlashAttention reads the pages through block tables (`torch.nn.attention.varlen`, torch ≥ 2.12).

    Args:
        shape: of the model.
        dtype: of activations, bfloat16.
        device: where it runs.
        kernel: instead of this torch's own `varlen_attn`.

    Raises:
        NotImplementedError: this torch's knows no block tables, or it does not compute in `dtype`.
    """

    name = "FlashAttention over block tables"
    scattered = False  # its causal mask knows no gaps
    capturable = True

    def __init__(
        self, shape: AttentionShape, dtype: torch.dtype, device: torch.device, kernel: VarlenKernel | None = None
    ) -> None:
        super().__init__(shape, dtype, device)
        if dtype not in (torch.bfloat16, torch.float16):
            raise NotImplementedError(f"it does not compute in {str(dtype).removeprefix('torch.')}")
        self._kernel = kernel or _stock_kernel()

    def prepare(self, batch: Batch) -> None:
        """See `PagedAttention.prepare`; the kernel reads the batch as it is."""

    def forward(
        self, layer: int, qkv: torch.Tensor, batch: Batch, cosine: torch.Tensor, sine: torch.Tensor, *, rotate: bool
    ) -> torch.Tensor:
        """See `PagedAttention.forward`."""
        query, key, value = split_and_rotate(self.shape, qkv, batch, cosine, sine, rotate=rotate)
        self.write(layer, key, value, batch)
        out: torch.Tensor = self._kernel(
            query.contiguous(),
            self.keys[layer],
            self.values[layer],
            batch.query_starts,
            None,
            batch.max_query,
            batch.max_context,
            window_size=(-1, 0),
            enable_gqa=True,
            seqused_k=batch.context_lens,
            block_table=batch.tables,
            # FlashAttention 2 with pages writes every sequence's result over the first one's when it splits keys by
            # itself (pytorch#194167); unsplit, a result does not depend on the batch either.
            num_splits=1,
        )
        return out.flatten(1)


def leave_to_torch() -> None:
    """Give up what `VarlenAttention` switched on in torch, where it does not serve."""
    with contextlib.suppress(ImportError):
        from torch.nn.attention import current_flash_attention_impl, restore_flash_attention_impl

        if current_flash_attention_impl() is not None:
            restore_flash_attention_impl()


def _stock_kernel() -> VarlenKernel:
    from torch.nn.attention import activate_flash_attention_impl
    from torch.nn.attention.varlen import varlen_attn

    try:
        activate_flash_attention_impl("FA3")  # it alone reads pages as small as ours; torch never takes it by itself
    except Exception as error:  # its package is not installed, or not for this card
        log.info("FlashAttention 3 is not there: %s", error)
    if not {"block_table", "num_splits"} <= inspect.signature(varlen_attn).parameters.keys():
        raise NotImplementedError("this torch's varlen_attn knows no block tables")
    return varlen_attn
