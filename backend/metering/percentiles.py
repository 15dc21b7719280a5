"""Percentiles of many values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Percentiles:
    """p50, p95 and p99 of a measure, and how many values they stand on."""

    p50: float
    p95: float
    p99: float
    count: int


def percentiles(values: list[float]) -> Percentiles | None:
    """Linear-interpolated percentiles; None without values."""
    if not values:
        return None
    p50, p95, p99 = np.percentile(np.asarray(values), [50, 95, 99])
    return Percentiles(float(p50), float(p95), float(p99), len(values))
