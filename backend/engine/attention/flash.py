"""FlashAttention over block tables on CUDA: taken only where a real call of it gives right results."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

import torch

from backend.engine.attention.base import AttentionShape, Batch, NewTokens, PagedAttention, make_batch
from backend.engine.attention.gather import GatherAttention, split_and_rotate
from backend.engine.config import blocks_for

log = logging.getLogger(__name__)

VarlenKernel = Callable[..., Any]
"""`torch.nn.attention.varlen.varlen_attn`, or what stands for it in a test."""


class VarlenAttention(GatherAttention):
    """CUDA: FlashAttention reads the pages through block tables (`torch.nn.attention.varlen`, torch ≥ 2.12).

    Args:
        shape: of the model.
        dtype: of activations, bfloat16.
        device: where it runs.
        kernel: `varlen_attn`.
    """

    name = "FlashAttention over block tables"
    scattered = False  # its causal mask knows no gaps
    capturable = True

    def __init__(self, shape: AttentionShape, dtype: torch.dtype, device: torch.device, kernel: VarlenKernel) -> None:
        super().__init__(shape, dtype, device)
        self._kernel = kernel

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


TRIALS = ((40, 0), (17, 83), (1, 32)), ((1, 0), (1, 699), (1, 2000))
"""Two steps that are tried before an attention is trusted: new tokens and tokens before them, of each sequence."""
TRIAL_TOLERANCE = 0.05
"""Largest absolute difference of attention over random values of about 1, computed in bf16."""


def choose_gpu_attention(
    shape: AttentionShape, dtype: torch.dtype, device: torch.device, kernel: VarlenKernel | None = None
) -> tuple[PagedAttention, str | None]:
    """The fastest attention that gives right results on this device, found by trying, and why no faster one serves.

    Args:
        shape: of the model.
        dtype: of activations.
        device: where it runs.
        kernel: tried instead of this torch's own.
    """
    try:
        problem = _varlen_problem(shape, dtype, device, kernel or _stock_kernel())
    except Exception as error:  # whatever a library or a driver says to it, there is another way
        log.warning("FlashAttention over block tables cannot be used", exc_info=True)
        problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if problem is None:
        return VarlenAttention(shape, dtype, device, kernel or _stock_kernel()), None
    return GatherAttention(shape, dtype, device), f"FlashAttention over block tables cannot be used here ({problem})"


def _stock_kernel() -> VarlenKernel:
    from torch.nn.attention.varlen import varlen_attn

    if not {"block_table", "num_splits"} <= inspect.signature(varlen_attn).parameters.keys():
        raise NotImplementedError("this torch's varlen_attn knows no block tables")
    return varlen_attn


@torch.inference_mode()
def _varlen_problem(
    shape: AttentionShape, dtype: torch.dtype, device: torch.device, kernel: VarlenKernel
) -> str | None:
    """Hold `VarlenAttention` against the plain way, on made-up data in the shapes that it will meet."""
    if dtype not in (torch.bfloat16, torch.float16):
        return f"it does not compute in {str(dtype).removeprefix('torch.')}"
    one = AttentionShape(1, shape.heads, shape.kv_heads, shape.head_size)
    plain, tried = GatherAttention(one, dtype, device), VarlenAttention(one, dtype, device, kernel)
    random = torch.Generator().manual_seed(0)
    for step in TRIALS:
        contexts = [new + past for new, past in step]
        batch, blocks = _trial_batch(step, device, random)
        for attention in (plain, tried):
            attention.allocate(blocks)
        plain.prepare(batch)  # the other needs nothing
        plain.pages.copy_(torch.randn(plain.pages.shape, generator=random).to(dtype))
        tried.pages.copy_(plain.pages)
        width = (shape.heads + 2 * shape.kv_heads) * shape.head_size
        qkv = torch.randn(len(batch.positions), width, generator=random).to(device, dtype)
        angles = torch.rand(max(contexts), shape.head_size // 2, generator=random).to(device)
        wanted, got = (
            attention.forward(0, qkv.clone(), batch, angles.cos(), angles.sin(), rotate=True).float()
            for attention in (plain, tried)
        )
        worst = float((wanted - got).abs().max())
        if not worst <= TRIAL_TOLERANCE:  # so that no number is a difference too
            return f"its results differ by {worst:.3g} from plain attention's"
    return None


def _trial_batch(
    step: tuple[tuple[int, int], ...], device: torch.device, random: torch.Generator
) -> tuple[Batch, int]:
    """A batch whose sequences own shuffled blocks, and how many blocks there are."""
    needed = [blocks_for(new + past) for new, past in step]
    order = torch.randperm(sum(needed), generator=random)
    parts = [
        NewTokens([0] * new, range(past, past + new), blocks.int().numpy())
        for (new, past), blocks in zip(step, order.split(needed), strict=True)
    ]
    return make_batch(parts, [], device), sum(needed)
