"""Keys and values of recurring texts, used again at another position of another prompt.

A prompt that quotes documents repeats their texts, but seldom in the same place, where the prefix cache would find
them. Here a text's states are kept apart, their keys turned to the new position, and the first tokens of each are
computed again, since it is there that a text misses what stands before it (CacheBlend, Yao et al. 2024, chooses the
tokens by deviation; EPIC, Hu et al. 2024, the first ones, as here). Not exact: what was before it the first time stays
in a text's states.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections import OrderedDict
from dataclasses import dataclass

import torch

from backend.engine.attention.base import PagedAttention
from backend.engine.config import BLOCK_SIZE
from backend.engine.sequence import Sequence

SHORTEST = 32
"""Tokens of a text that is worth keeping."""


@dataclass(frozen=True, slots=True)
class Kept:
    """States of one text: float tensors [layers, tokens, kv_heads, head_size], and where it stood."""

    start: int
    keys: torch.Tensor
    values: torch.Tensor

    @property
    def size(self) -> int:
        """Bytes held."""
        return self.keys.nbytes + self.values.nbytes


class ChunkCache:
    """Least recently used texts leave when the budget is full.

    Args:
        budget: bytes.
        cosine: rotary table of the model, float32 [positions, head_size / 2].
        sine: the same.
        unrotated: layers without positional encoding.
    """

    def __init__(
        self, budget: int, cosine: torch.Tensor, sine: torch.Tensor, unrotated: frozenset[int] = frozenset()
    ) -> None:
        self._budget, self._unrotated = budget, unrotated
        scale = float(cosine[0, 0])  # some rotary types scale their tables; a turn must not
        self._cosine, self._sine = (cosine / scale).cpu(), (sine / scale).cpu()
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()
        self.size = 0
        self.reused_tokens = 0

    def _key(self, seq: Sequence, start: int, end: int) -> bytes:
        tokens = array("q", seq.tokens[start:end]).tobytes()
        return hashlib.blake2b(tokens, key=seq.salt.encode()[:64], digest_size=16).digest()

    def plan(self, seq: Sequence, percent: int, attention: PagedAttention) -> None:
        """Fill a sequence's pages with what is known of its texts; `seq.pending` is what is left to compute.

        Its block table must already hold the whole sequence.
        """
        filled: set[int] = set()
        for start, end in seq.segments:
            kept = self._kept.get(self._key(seq, start, end))
            if kept is None or start < seq.computed or end >= seq.length:
                continue
            self._kept.move_to_end(self._key(seq, start, end))
            again = math.ceil((end - start) * percent / 100)
            first = start + again
            if first >= end:
                continue
            slots = _slots(seq, first, end)
            shift = start - kept.start
            turn = None
            if shift:
                cosine, sine = self._cosine[abs(shift)], self._sine[abs(shift)]
                turn = cosine.contiguous(), (sine if shift > 0 else -sine).contiguous()
            keys, values = kept.keys[:, again:].float(), kept.values[:, again:].float()
            attention.write_tokens(slots, keys.contiguous(), values.contiguous(), turn, self._unrotated)
            filled.update(range(first, end))
        if filled:
            seq.pending = [at for at in range(seq.computed, seq.length) if at not in filled]
            seq.exact = min(filled)
            self.reused_tokens += len(filled)

    def learn(self, seq: Sequence, attention: PagedAttention) -> None:
        """Keep the texts of a prompt that has just been computed without help."""
        for start, end in seq.segments:
            key = self._key(seq, start, end)
            if key in self._kept or end - start < SHORTEST or end > seq.computed:
                continue
            keys, values = attention.read_tokens(_slots(seq, start, end))
            kept = Kept(start, keys.bfloat16(), values.bfloat16())
            self._kept[key] = kept
            self.size += kept.size
        while self.size > self._budget:
            _, oldest = self._kept.popitem(last=False)
            self.size -= oldest.size


def _slots(seq: Sequence, start: int, end: int) -> torch.Tensor:
    at = torch.arange(start, end)
    blocks = torch.from_numpy(seq.block_row)[at // BLOCK_SIZE].long()
    return blocks * BLOCK_SIZE + at % BLOCK_SIZE
