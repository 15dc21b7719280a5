"""Attention over block tables by Triton kernels of our own: wherever Triton compiles, whatever libraries there are."""

from __future__ import annotations

import torch
import triton

from backend.engine.attention.base import AttentionShape, Batch
from backend.engine.attention.gather import GatherAttention
from backend.engine.config import BLOCK_SIZE
from backend.engine.cuda import kernels

SPLIT = 1024
"""Keys that one program reads: a long context is shared among programs, by this size whatever else is in the batch."""
MOST_PARTS = 256 << 20
"""Bytes for the parts of a step that reads prompts."""


class TritonAttention(GatherAttention):
    """CUDA: rotation and writing in one kernel, attention in another (two where a context is split).

    Args:
        shape: of the model.
        dtype: of activations.
        device: where it runs.
    """

    name = "our Triton kernels over block tables"
    scattered = True
    capturable = True

    def __init__(self, shape: AttentionShape, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(shape, dtype, device)
        self._group = shape.heads // shape.kv_heads
        self._lanes = triton.next_power_of_2(self._group)
        self._depth = max(16, triton.next_power_of_2(shape.head_size))

    def prepare(self, batch: Batch) -> None:
        """See `PagedAttention.prepare`; the kernels read the batch as it is."""

    def forward(
        self, layer: int, qkv: torch.Tensor, batch: Batch, cosine: torch.Tensor, sine: torch.Tensor, *, rotate: bool
    ) -> torch.Tensor:
        """See `PagedAttention.forward`."""
        s, tokens = self.shape, qkv.shape[0]
        qkv = qkv.contiguous()
        queries = torch.empty(tokens, s.heads, s.head_size, dtype=qkv.dtype, device=qkv.device)
        kernels.rotate_and_write[(tokens, s.heads + 2 * s.kv_heads)](
            qkv, queries, self.keys[layer], self.values[layer], batch.positions, batch.slots, cosine, sine,
            ROTATE=rotate, HEADS=s.heads, KV_HEADS=s.kv_heads, D=s.head_size,
            HALF=triton.next_power_of_2(s.head_size // 2),
        )  # fmt: skip
        out = torch.empty_like(queries)
        decodes = batch.max_query == 1
        # A power of two, since each count is compiled by itself; one where parts of many rows would take much memory.
        splits = triton.next_power_of_2(triton.cdiv(batch.max_context, SPLIT))
        if splits * queries.numel() * 4 > MOST_PARTS and not decodes:
            splits = 1
        rows = max(16, self._lanes * (1 if decodes else max(1, 64 // self._lanes)))
        parts = tops = sums = out
        if splits > 1:
            parts = torch.empty(splits, *queries.shape, dtype=torch.float32, device=qkv.device)
            tops, sums = torch.empty(2, splits, tokens, s.heads, dtype=torch.float32, device=qkv.device)
        sequences = batch.context_lens.shape[0]
        kernels.attend[(sequences * splits, s.kv_heads, triton.cdiv(batch.max_query, rows // self._lanes))](
            queries, self.keys[layer], self.values[layer], out, parts, tops, sums, batch.tables, batch.positions,
            batch.query_starts, batch.context_lens, s.head_size**-0.5, batch.tables.shape[1],
            PAGE=BLOCK_SIZE, GROUP=self._group, LANES=self._lanes, KV_HEADS=s.kv_heads, D=s.head_size,
            DEPTH=self._depth, ROWS=rows, COLUMNS=64 if self._depth <= 128 else 32,
            SPLIT=SPLIT if splits > 1 else 1 << 30, SPLITS=splits,
        )  # fmt: skip
        if splits > 1:
            kernels.join[(tokens * s.heads,)](
                parts, tops, sums, out, tokens * s.heads, D=s.head_size, DEPTH=self._depth, SPLITS=splits
            )
        return out.flatten(1)
