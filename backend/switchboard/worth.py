"""What a switch is worth, from requests served in turn with it and without it. Arithmetic; nothing is measured here.

The unit is the pair of neighbouring blocks, one with the switch and one without, in an order drawn by lot (a randomized
block design: Fisher, The Design of Experiments, 1935). Whatever drifts more slowly than a pair cancels within it, and
what is left has no favourite sign. Requests of a block are compared with what their class of workload takes on average
in both arms (indirect standardization, as in Breslow & Day, Statistical Methods in Cancer Research II, 1987), so that a
block that happened to get long prompts does not look dear. The intervals hold whenever one looks; see `interval`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

MARGIN = 0.05
"""Relative differences within which two arms count as the same."""
LEVEL = 0.05
"""Chance that an interval misses the truth at any look."""
SPREAD = 2.0
"""Standard deviation of the effects, in deviations of a pair, that the interval is made to find soonest."""
LEAST_PAIRS = 4
LEAST_REQUESTS = 2
"""In a block; with fewer its pair says nothing."""
MOST_PAIRS = 5000
"""Beyond which nobody is told to wait."""


class Measure(StrEnum):
    """What is compared."""

    COST = "cost"
    """Machine seconds for a token, read or written."""
    TTFT = "ttft"
    """Seconds to the first token."""
    SPEED = "speed"
    """Tokens a second that a request is written at."""


class Verdict(StrEnum):
    """What came out."""

    WORTH_IT = "worth it"
    COSTS_YOU = "costs you"
    NO_DIFFERENCE = "no difference"
    NOT_RESOLVED = "not resolved"


@dataclass(frozen=True, slots=True)
class Served:
    """One request that was served within a block; times in seconds.

    Attributes:
        source: who sent it, as on the ledger; an embedding is of a source of its own.
        again: a stored answer was given.
        reading, writing: machine time for its prompt, and for its answer.
        ttft: to the first token; None where it has none.
        per_token: for each token after the first; None where there was none.
    """

    source: str
    again: bool
    prompt_tokens: int
    output_tokens: int
    reading: float
    writing: float
    ttft: float | None
    per_token: float | None

    def workload(self, split_again: bool) -> tuple[object, ...]:
        """Its class: the source, and both lengths by powers of two.

        Whether it was given again is part of the class only where the switch in question does not decide that.
        """
        again = self.again and split_again
        return self.source, again, self.prompt_tokens.bit_length(), self.output_tokens.bit_length()


@dataclass(slots=True)
class Tally:
    """Sums over requests: what was observed, and of how much it is."""

    amount: float = 0.0
    observed: float = 0.0
    requests: int = 0

    def add(self, amount: float, observed: float, requests: int = 1) -> None:
        """Count something in."""
        self.amount, self.observed = self.amount + amount, self.observed + observed
        self.requests += requests


Tallies = dict[tuple[object, ...], Tally]


@dataclass(frozen=True, slots=True)
class Block:
    """What was served in a stretch of time under one state of the switch, summed by measure and class."""

    requests: int
    sums: dict[Measure, Tallies]

    @classmethod
    def of(cls, served: Iterable[Served], *, split_again: bool = True) -> Block:
        """Of requests; see `Served.workload` for the argument."""
        sums: dict[Measure, Tallies] = {measure: {} for measure in Measure}
        count = 0
        for one in served:
            count += 1
            workload = one.workload(split_again)
            _tally(sums[Measure.COST], ("read", *workload)).add(one.prompt_tokens, one.reading)
            _tally(sums[Measure.COST], ("written", *workload)).add(one.output_tokens, one.writing, 0)
            if one.ttft is not None and one.ttft > 0:
                _tally(sums[Measure.TTFT], workload).add(1, math.log(one.ttft))
            if one.per_token is not None and one.per_token > 0:
                _tally(sums[Measure.SPEED], workload).add(1, -math.log(one.per_token))
        return cls(count, sums)


def _tally(tallies: Tallies, workload: tuple[object, ...]) -> Tally:
    return tallies.setdefault(workload, Tally())


Pair = tuple[Block, Block]
"""With the switch, without."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What the switch changes, as a share of what it is without: -0.2 is a fifth less.

    Attributes:
        pairs: of blocks that it was learned from.
        low, high: the interval; None where nothing is known on that side.
        without: what is changed, in the measure's unit: a mean for cost, geometric means for the others.
    """

    pairs: int
    change: float
    low: float | None
    high: float | None
    without: float


def differences(pairs: Sequence[Pair], measure: Measure) -> list[float]:
    """With less without, of each pair in which both were asked enough, each held against its classes' expectation.

    Of cost the difference as a share of the mean of both, 2 (a - b) / (a + b): the same forth and back, and defined
    where one arm computed nothing. Of the others the difference of mean logarithms: waiting times have long tails.
    """
    expected: Tallies = {}
    for block in (block for pair in pairs for block in pair):
        for workload, tally in block.sums[measure].items():
            _tally(expected, workload).add(tally.amount, tally.observed, tally.requests)
    found = []
    for with_it, without in pairs:
        a = _standardized(with_it.sums[measure], expected, measure)
        b = _standardized(without.sums[measure], expected, measure)
        if a is None or b is None:
            continue
        found.append(a - b if measure is not Measure.COST else 2 * (a - b) / (a + b) if a + b else 0.0)
    return found


def _standardized(sums: Tallies, expected: Tallies, measure: Measure) -> float | None:
    """Observed for what was expected: as a ratio of sums, or as a mean distance of logarithms."""
    if sum(tally.requests for tally in sums.values()) < LEAST_REQUESTS:
        return None
    observed = sum(tally.observed for tally in sums.values())
    usual = sum(
        tally.amount * expected[workload].observed / expected[workload].amount
        for workload, tally in sums.items()
        if expected[workload].amount
    )
    if measure is Measure.COST:
        return observed / usual if usual else 0.0
    return (observed - usual) / sum(tally.amount for tally in sums.values())


def reach(pairs: int, level: float = LEVEL) -> float:
    """Half the width of `interval`, in standard deviations of a pair; infinite while too few are known.

    The interval is what a t-test's e-value does not reject: the Bayes factor with the right Haar prior on the
    deviation and a normal one of `SPREAD` on the standardized effect. Under the null it is a nonnegative martingale, so
    by Ville's inequality it errs with at most `level`, however often one looks and whenever one stops (Perez-Ortiz,
    Lardy, de Heide & Grunwald, E-statistics, group invariance and anytime-valid testing, Annals of Statistics 2024;
    Wang & Ramdas, Anytime-valid t-tests and confidence sequences for Gaussian means with unknown variance, 2023).
    """
    if pairs < 2:
        return math.inf
    freedom, widened = pairs - 1, 1 + pairs * SPREAD**2
    most = (math.sqrt(widened) / level) ** (2 / pairs)
    if most >= widened:
        return math.inf
    return math.sqrt(freedom * (most - 1) / (1 - most / widened) / pairs)


def interval(values: Sequence[float], noise: float = 0.0) -> tuple[float, float, float]:
    """Mean and both ends, valid at every look.

    Args:
        values: one of each pair.
        noise: the deviation of pairs that were the same on both sides: a few that happen to agree are not believed
            beyond it.
    """
    if not values:
        return 0.0, -math.inf, math.inf
    mean = statistics.fmean(values)
    half = reach(len(values)) * max(deviation(values), noise) if len(values) >= LEAST_PAIRS else math.inf
    return mean, mean - half, mean + half


def deviation(values: Sequence[float]) -> float:
    """Standard deviation of a sample; 0 while nothing is known of it."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def effect(pairs: Sequence[Pair], measure: Measure, noise: float = 0.0) -> Effect | None:
    """What the switch changes of a measure; None where no pair tells."""
    values = differences(pairs, measure)
    if not values:
        return None
    mean, low, high = interval(values, noise)
    total = Tally()
    for _, without in pairs:
        for tally in without.sums[measure].values():
            total.add(tally.amount, tally.observed)
    base = total.observed / total.amount if total.amount else 0.0
    changes = [_change(value, measure) for value in (mean, low, high)]
    return Effect(
        len(values), changes[0] or 0.0, changes[1], changes[2], base if measure is Measure.COST else math.exp(base)
    )


def _change(value: float, measure: Measure) -> float | None:
    """A difference as a share of what it is without."""
    if measure is Measure.COST:
        return max(4 / (2 - value) - 2, -1.0) if value < 2 else None
    return math.exp(value) - 1 if value < math.inf else None


def decide(values: Sequence[float], measure: Measure, noise: float = 0.0) -> Verdict:
    """By the interval alone: beside zero, within the margin (which is too little to matter, either way), or neither."""
    _, low, high = interval(values, noise)
    margin = math.log1p(MARGIN)
    if -margin <= low and high <= margin:
        return Verdict.NO_DIFFERENCE
    if low <= 0 <= high:
        return Verdict.NOT_RESOLVED
    less = high < 0
    return Verdict.WORTH_IT if less != (measure is Measure.SPEED) else Verdict.COSTS_YOU


def more_pairs(values: Sequence[float], noise: float = 0.0) -> int | None:
    """How many more pairs would decide, if mean and deviation stay as they are; None where no number is near."""
    if len(values) < 2:
        return None
    mean, spread = abs(statistics.fmean(values)), max(deviation(values), noise)
    margin = math.log1p(MARGIN)
    for pairs in range(max(len(values) + 1, LEAST_PAIRS), MOST_PAIRS):
        half = reach(pairs) * spread
        if half < mean or half + mean <= margin:
            return pairs - len(values)
    return None
