"""Latencies as counts in buckets whose edges grow by a constant factor: mergeable, as exact for 1 ms as for 1 min.

The idea is DDSketch's (Masson, Rim and Lee 2019): a quantile is off by at most `ERROR` of itself, however many
histograms were merged. Times from 1 µs to 30 h fall into about 630 buckets; those outside count in the first and the
last. A library would bring a serializer of its own for what is a sorted list of counts here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

ERROR = 0.02
GROWTH = (1 + ERROR) / (1 - ERROR)
LEAST_NS, MOST_NS = 1_000, 108_000 * 1_000_000_000
BUCKETS = math.ceil(math.log(MOST_NS / LEAST_NS) / math.log(GROWTH)) + 1
PAIR = np.dtype([("bucket", "<u2"), ("count", "<u4")])
MIDDLES = LEAST_NS * GROWTH ** np.arange(BUCKETS) * 2 / (1 + GROWTH)
"""Nanoseconds that stand for each bucket: at most `ERROR` off everything in it."""


def buckets_of(durations: Iterable[int | None]) -> np.ndarray:
    """The bucket of each duration in nanoseconds; None has none."""
    values = np.array([max(value, LEAST_NS) for value in durations if value is not None], dtype=np.float64)
    return np.clip(np.ceil(np.log(values / LEAST_NS) / math.log(GROWTH)), 0, BUCKETS - 1).astype(np.uint16)


def packed(durations: Iterable[int | None]) -> bytes:
    """A histogram of durations in nanoseconds, as it is stored."""
    return _pack(np.bincount(buckets_of(durations), minlength=BUCKETS))


def merged(parts: Iterable[bytes]) -> np.ndarray:
    """The counts of all buckets, int64, over any number of stored histograms."""
    pairs = np.frombuffer(b"".join(parts), dtype=PAIR)
    # The weights are whole numbers below 2^53, which floats add exactly.
    return np.bincount(pairs["bucket"], weights=pairs["count"], minlength=BUCKETS).astype(np.int64)


def merge(parts: Iterable[bytes]) -> bytes:
    """Stored histograms as one."""
    return _pack(merged(parts))


def quantile(counts: np.ndarray, share: float) -> float | None:
    """Nanoseconds below which a share (0 to 1) of the values lies; None without values."""
    total = int(counts.sum())
    if not total:
        return None
    rank = share * (total - 1)
    return float(MIDDLES[int(np.searchsorted(np.cumsum(counts), rank, side="right"))])


def _pack(counts: np.ndarray) -> bytes:
    used = np.flatnonzero(counts)
    pairs = np.empty(len(used), dtype=PAIR)
    pairs["bucket"], pairs["count"] = used, np.minimum(counts[used], (1 << 32) - 1)
    return pairs.tobytes()
