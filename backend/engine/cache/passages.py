"""Keys and values of recurring passages, used again at another position of another prompt.

A prompt that quotes documents repeats their texts, but seldom in the same place, where the prefix cache would find
them. Here a passage's states are kept apart, their keys rotated to the new position, and the first tokens of each are
computed again, since it is there that a passage misses what stands before it (CacheBlend, Yao et al. 2024, chooses the
tokens by deviation; EPIC, Hu et al. 2024, the first ones, as here). Not exact: what was before it the first time stays
in a passage's states.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections import OrderedDict
from dataclasses import dataclass

import torch

from backend.engine.attention.base import PagedAttention, Rotation
from backend.engine.config import BLOCK_SIZE
from backend.engine.sequence import Recompute, Sequence

SHORTEST = 32
"""Tokens of a passage that is worth keeping."""


@dataclass(frozen=True, slots=True)
class Passage:
    """States of one passage: float tensors [layers, tokens, kv_heads, head_size], and where it stood."""

    start: int
    keys: torch.Tensor
    values: torch.Tensor

    @property
    def size(self) -> int:
        """Bytes held."""
        return self.keys.nbytes + self.values.nbytes


class PassageCache:
    """The one seam of this technique: `reuse` when a prompt is admitted, `learn` when one was read to its end.

    Least recently used passages leave when the budget is full.

    Args:
        budget: bytes.
        attention: the pages that states are read from and written to.
        cosine: rotary table of the model, float32 [positions, head_size / 2].
        sine: the same.
        unrotated: layers without positional encoding.
        recompute_percent: share of a passage's tokens, the first ones, that is computed again; may be changed.
    """

    def __init__(
        self, budget: int, attention: PagedAttention, cosine: torch.Tensor, sine: torch.Tensor,
        unrotated: frozenset[int], recompute_percent: int,
    ) -> None:  # fmt: skip
        self._budget, self._attention, self._unrotated = budget, attention, unrotated
        scale = float(cosine[0, 0])  # some rotary types scale their tables; a rotation must not
        self._cosine, self._sine = (cosine / scale).cpu(), (sine / scale).cpu()
        self._kept: OrderedDict[bytes, Passage] = OrderedDict()
        self.recompute_percent = recompute_percent
        self.size = 0
        self.reused_tokens = 0

    def _key(self, seq: Sequence, start: int, end: int) -> bytes:
        tokens = array("q", seq.tokens[start:end]).tobytes()
        return hashlib.blake2b(tokens, key=seq.salt.encode()[:64], digest_size=16).digest()

    def _rotation(self, shift: int) -> Rotation | None:
        if not shift:
            return None
        cosine, sine = self._cosine[abs(shift)], self._sine[abs(shift)]
        return cosine.contiguous(), (sine if shift > 0 else -sine).contiguous()

    def reuse(self, seq: Sequence) -> int:
        """Fill a sequence's pages with what is known of its passages; `seq.recompute` is what is left to compute.

        Its block table must already hold the whole sequence. Returns how many tokens need no computing.
        """
        filled: set[int] = set()
        for start, end in seq.segments:
            kept = self._kept.get(self._key(seq, start, end))
            if kept is None or start < seq.computed or end >= seq.length:
                continue
            self._kept.move_to_end(self._key(seq, start, end))
            again = math.ceil((end - start) * self.recompute_percent / 100)
            first = start + again
            if first >= end:
                continue
            keys, values = kept.keys[:, again:].float(), kept.values[:, again:].float()
            self._attention.write_tokens(
                _slots(seq, first, end), keys.contiguous(), values.contiguous(), self._rotation(start - kept.start),
                self._unrotated,
            )  # fmt: skip
            filled.update(range(first, end))
        if filled:
            positions = [at for at in range(seq.computed, seq.length) if at not in filled]
            seq.recompute = Recompute(positions, exact_prefix=min(filled))
            self.reused_tokens += len(filled)
        return len(filled)

    def learn(self, seq: Sequence) -> None:
        """Keep the passages of a prompt that has just been computed, unless it was with help."""
        if seq.output_len or seq.recompute is not None:
            return
        for start, end in seq.segments:
            key = self._key(seq, start, end)
            if key in self._kept or end - start < SHORTEST or end > seq.computed:
                continue
            keys, values = self._attention.read_tokens(_slots(seq, start, end))
            kept = Passage(start, keys.bfloat16(), values.bfloat16())
            self._kept[key] = kept
            self.size += kept.size
        while self.size > self._budget:
            _, oldest = self._kept.popitem(last=False)
            self.size -= oldest.size


def _slots(seq: Sequence, start: int, end: int) -> torch.Tensor:
    at = torch.arange(start, end)
    blocks = torch.from_numpy(seq.block_row)[at // BLOCK_SIZE].long()
    return blocks * BLOCK_SIZE + at % BLOCK_SIZE
