"""Decode steps on CUDA replayed as graphs: one launch instead of hundreds, by batch size rounded up to a bucket.

Captured when a bucket is first needed. Rows beyond the batch write to a block of their own that nobody reads.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from backend.engine.attention.base import Batch, PagedAttention
from backend.engine.config import BLOCK_SIZE, blocks_for
from backend.engine.model.decoder import Decoder

log = logging.getLogger(__name__)

BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
WARM_UPS = 3


class DecodeGraphs:
    """Graphs of one decoder over one set of pages.

    Args:
        decoder: on a CUDA device.
        attention: its pages, one block more than the block cache hands out.
        spare_block: that block's index.
        max_model_len: longest context in tokens; the graphs' tables are that wide.
    """

    def __init__(self, decoder: Decoder, attention: PagedAttention, spare_block: int, max_model_len: int) -> None:
        self._decoder, self._attention, self._spare = decoder, attention, spare_block
        self._width = blocks_for(max_model_len)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Batch, torch.Tensor]] = {}
        self.failed: str | None = None

    def __call__(self, batch: Batch) -> torch.Tensor | None:
        """Logits [sequences, vocab] of a step in which every sequence computes one token; None where no graph fits."""
        count = batch.context_lens.shape[0]
        if self.failed or batch.max_query != 1 or len(batch.last) != count or count > BUCKETS[-1]:
            return None
        bucket = next(size for size in BUCKETS if size >= count)
        if bucket not in self._graphs:
            try:
                self._graphs[bucket] = self._capture(bucket)
            except RuntimeError as error:  # an operation that this driver or torch cannot capture
                self.failed = f"CUDA graphs cannot be used here: {error}"
                log.warning("%s", self.failed)
                return None
        graph, fixed, logits = self._graphs[bucket]
        fixed.token_ids[:count] = batch.token_ids
        fixed.positions[:count] = batch.positions
        fixed.slots[:count] = batch.slots
        fixed.slots[count:] = self._spare * BLOCK_SIZE
        fixed.context_lens[:count] = batch.context_lens
        fixed.context_lens[count:] = 1
        fixed.tables[:count, : batch.tables.shape[1]] = batch.tables
        fixed.tables[count:] = self._spare
        graph.replay()
        return logits[:count]

    def _capture(self, bucket: int) -> tuple[torch.cuda.CUDAGraph, Batch, torch.Tensor]:
        device = self._decoder.device
        fixed = Batch(
            token_ids=torch.zeros(bucket, dtype=torch.int64, device=device),
            positions=torch.zeros(bucket, dtype=torch.int64, device=device),
            slots=torch.full((bucket,), self._spare * BLOCK_SIZE, dtype=torch.int64, device=device),
            query_starts=torch.arange(bucket + 1, dtype=torch.int32, device=device),
            context_lens=torch.ones(bucket, dtype=torch.int32, device=device),
            tables=torch.full((bucket, self._width), self._spare, dtype=torch.int32, device=device),
            max_query=1,
            max_context=self._width * BLOCK_SIZE,
            last=torch.arange(bucket, dtype=torch.int64, device=device),
        )
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self._decoder.forward(replace(fixed), self._attention)
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = self._decoder.forward(fixed, self._attention)
        return graph, fixed, logits
