"""How fast two variants of a model are beside each other: their turns alternate, so that both meet the same machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from backend.engine.attention.base import Batch, NewTokens, PagedAttention, make_batch
from backend.engine.config import blocks_for

if TYPE_CHECKING:
    from backend.engine.model.decoder import Decoder

SEQUENCES, TOKENS, STEPS, READS = 8, 128, 12, 2
"""Sequences at once, tokens read and written of each, and how many steps and reads are timed."""


@dataclass
class Speed:
    """Of one variant, the best of its turns.

    Attributes:
        read: seconds to read 8 prompts of 128 tokens.
        step: seconds to decode a token of each.
    """

    read: float = float("inf")
    step: float = float("inf")

    @property
    def tokens_per_second(self) -> float:
        """Output tokens a second of 8 requests of 128 tokens in, 128 out."""
        return SEQUENCES * TOKENS / (self.read + TOKENS * self.step)


def compare(decoders: list[Decoder], pause: Callable[[], None]) -> list[Speed]:
    """Time decoders in turn; `pause` is called between turns, and may wait."""
    attentions: list[PagedAttention] = []
    each = blocks_for(TOKENS + STEPS)
    for decoder in decoders:
        attention = decoder.make_attention()
        attention.allocate(each * SEQUENCES)
        attentions.append(attention)
    tables = [np.arange(i * each, (i + 1) * each, dtype=np.int32) for i in range(SEQUENCES)]

    def batch(decoder: Decoder, begin: int, count: int) -> Batch:
        tokens = [t % decoder.shape.vocab for t in range(begin + 1, begin + count + 1)]
        parts = [NewTokens(tokens, range(begin, begin + count), table) for table in tables]
        return make_batch(parts, [(i + 1) * count - 1 for i in range(SEQUENCES)], decoder.device)

    speeds = [Speed() for _ in decoders]
    for turn in range(READS + STEPS):
        begin, count = (0, TOKENS) if turn < READS else (TOKENS + turn - READS, 1)
        for speed, decoder, attention in zip(speeds, decoders, attentions, strict=True):
            step = batch(decoder, begin, count)
            pause()
            started = time.perf_counter()
            decoder.forward(step, attention)
            seconds = time.perf_counter() - started
            if turn < READS:
                speed.read = min(speed.read, seconds)
            else:
                speed.step = min(speed.step, seconds)
    return speeds
