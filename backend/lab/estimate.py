"""A mean of repeats with its interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""Student's t for 95 %, two-sided, by degrees of freedom from 1."""
NORMAL95 = 1.96


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, and the interval of 95 % around it."""

    mean: float
    low: float
    high: float

    def times(self, factor: float) -> Estimate:
        """In another unit."""
        return Estimate(self.mean * factor, self.low * factor, self.high * factor)


def estimate(values: Sequence[float]) -> Estimate:
    """Of repeats that are independent of each other; of a single one, no interval is known: it reaches everywhere.

    Raises:
        ValueError: there are no values.
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Estimate(mean, 0.0, math.inf)
    freedom = len(values) - 1
    quantile = T95[freedom - 1] if freedom <= len(T95) else NORMAL95 + 2.4 / freedom
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(mean, max(mean - half, 0.0), mean + half)
