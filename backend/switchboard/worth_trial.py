"""The course of a trial: which state of the switch each block gets, and where it stands. Knows no clock."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from backend.switchboard.worth import (
    Block,
    Effect,
    Measure,
    Pair,
    Verdict,
    decide,
    deviation,
    differences,
    effect,
    more_pairs,
)

SAME_PAIRS = 3
"""Pairs of blocks that are both with the switch, from which the noise is learned."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a trial is.

    Attributes:
        verdict: by the measure that the trial is decided on.
        more_pairs: that would decide it if it goes on like this; None where it is decided, or nobody can tell.
        noise: deviation of the pairs that were with the switch on both sides, as a share; None before two.
    """

    verdict: Verdict
    effects: dict[Measure, Effect]
    more_pairs: int | None
    noise: float | None


@dataclass(slots=True)
class Trial:
    """Which state of the switch each block gets, and what the blocks say. Seeded: the same seed, the same order.

    Args:
        seed: of the order within pairs.
        measure: that decides.
    """

    seed: int
    measure: Measure = Measure.COST
    same: list[Pair] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    _lot: random.Random = field(init=False)
    _first: bool = field(init=False)
    _open: Block | None = None

    def __post_init__(self) -> None:
        self._lot = random.Random(self.seed)
        self._first = self._lot.random() < 0.5

    @property
    def learning(self) -> bool:
        """Whether the noise is being learned: both blocks of a pair are with the switch."""
        return len(self.same) < SAME_PAIRS

    @property
    def arm(self) -> bool:
        """Whether the next block is to be with the switch."""
        return True if self.learning else self._first == (self._open is None)

    @property
    def done(self) -> int:
        """Blocks that count."""
        return 2 * (len(self.same) + len(self.pairs)) + (self._open is not None)

    def add(self, block: Block) -> bool:
        """Enter the next block; says whether a pair is complete."""
        if self._open is None:
            self._open = block
            return False
        pair = (self._open, block) if self._first else (block, self._open)
        (self.same if self.learning else self.pairs).append(pair)
        self.drop()
        return True

    def drop(self) -> None:
        """Begin a pair anew: what disturbed one block leaves the other alone."""
        self._open, self._first = None, self._lot.random() < 0.5

    def standing(self) -> Standing:
        """What is known by now; may be asked as often as one likes."""
        same = differences(self.same, self.measure)
        noise = deviation(same) if len(same) > 1 else None
        effects = {measure: self._effect(measure) for measure in Measure}
        values = differences(self.pairs, self.measure)
        verdict = decide(values, self.measure, noise or 0.0)
        more = more_pairs(values, noise or 0.0) if verdict is Verdict.NOT_RESOLVED else None
        return Standing(verdict, {m: e for m, e in effects.items() if e is not None}, more, noise)

    def _effect(self, measure: Measure) -> Effect | None:
        return effect(self.pairs, measure, deviation(differences(self.same, measure)))
