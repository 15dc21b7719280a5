"""Decode steps on CUDA replayed as graphs: one launch instead of hundreds, by batch size rounded up to a bucket.

All are captured when the weights are put in place, the largest first, over the same inputs and in the same memory: only
one is replayed at a time. Rows beyond the batch write to a block of their own that nobody reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from backend.engine.attention.base import Batch, PagedAttention
from backend.engine.config import BLOCK_SIZE, blocks_for
from backend.engine.cuda.recording import Recorder, Work, cuda_recorder
from backend.engine.model.decoder import Decoder

BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)

class DecodeGraphs:
    """Graphs of one decoder over one set of pages.

    Args:
        decoder: on a CUDA device.
        attention: its pages, one block more than the block cache hands out.
        spare_block: that block's index.
        max_model_len: longest context in tokens; the graphs' tables are that wide.
        record: instead of `cuda_recorder`.

    Raises:
        RuntimeError: an operation that this driver or torch cannot capture.
    """

    def __init__(
        self, decoder: Decoder, attention: PagedAttention, spare_block: int, max_model_len: int,
        record: Recorder | None = None,
    ) -> None:  # fmt: skip
        device, most, width = decoder.device, BUCKETS[-1], blocks_for(max_model_len)
        self._spare = spare_block
        self._fixed = Batch(
            token_ids=torch.zeros(most, dtype=torch.int64, device=device),
            positions=torch.zeros(most, dtype=torch.int64, device=device),
            slots=torch.full((most,), spare_block * BLOCK_SIZE, dtype=torch.int64, device=device),
            query_starts=torch.arange(most + 1, dtype=torch.int32, device=device),
            context_lens=torch.ones(most, dtype=torch.int32, device=device),
            tables=torch.full((most, width), spare_block, dtype=torch.int32, device=device),
            max_query=1,
            max_context=width * BLOCK_SIZE,
            last=torch.arange(most, dtype=torch.int64, device=device),
        )
        record = record or cuda_recorder(device)
        self._graphs: dict[int, tuple[Callable[[], None], torch.Tensor]] = {}
        for bucket in reversed(BUCKETS):
            self._graphs[bucket] = record(self._work(decoder, attention, self._first(bucket)))

    @staticmethod
    def _work(decoder: Decoder, attention: PagedAttention, batch: Batch) -> Work:
        return lambda: decoder.forward(replace(batch), attention)

    def _first(self, count: int) -> Batch:
        """The first rows of the fixed batch."""
        b = self._fixed
        return replace(
            b, token_ids=b.token_ids[:count], positions=b.positions[:count], slots=b.slots[:count],
            query_starts=b.query_starts[: count + 1], context_lens=b.context_lens[:count], tables=b.tables[:count],
            last=b.last[:count],
        )  # fmt: skip

    def __call__(self, batch: Batch) -> torch.Tensor | None:
        """Logits [sequences, vocab] of a step in which every sequence computes one token; None where no graph fits.

        They lie where the next call's will.
        """
        count = batch.context_lens.shape[0]
        if batch.max_query != 1 or len(batch.last) != count or count > BUCKETS[-1]:
            return None
        bucket = next(size for size in BUCKETS if size >= count)
        fixed = self._fixed
        fixed.token_ids[:count] = batch.token_ids
        fixed.positions[:count] = batch.positions
        fixed.slots[:count] = batch.slots
        fixed.slots[count:bucket] = self._spare * BLOCK_SIZE
        fixed.positions[count:bucket] = 0
        fixed.context_lens[:count] = batch.context_lens
        fixed.context_lens[count:bucket] = 1
        fixed.tables[:count, : batch.tables.shape[1]] = batch.tables
        fixed.tables[count:bucket] = self._spare
        replay, logits = self._graphs[bucket]
        replay()
        return logits[:count]
