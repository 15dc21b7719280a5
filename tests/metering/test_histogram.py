"""Percentiles of merged histograms are those of all values, within the error that is stated."""

from __future__ import annotations

import numpy as np
import pytest

from backend.metering.histogram import ERROR, merge, merged, packed, quantile

MS = 1_000_000


def test_percentiles_of_merged_histograms_are_those_of_all_values() -> None:
    rng = np.random.default_rng(0)
    parts = [np.exp(rng.normal(np.log(middle * MS), 1.0, 500)).astype(int) for middle in (2, 40, 900, 30_000)]
    whole = np.concatenate(parts)
    one = merge([merge([packed(parts[0].tolist()), packed(parts[1].tolist())]), packed(parts[2].tolist())])
    counts = merged([one, packed(parts[3].tolist())])
    assert counts.sum() == len(whole)
    for share in (0, 0.01, 0.25, 0.5, 0.95, 0.99, 1):
        exact = np.quantile(whole, share, method="lower")
        assert quantile(counts, share) == pytest.approx(exact, rel=ERROR * 1.001)


def test_nothing_has_no_percentile_and_what_is_outside_counts_at_the_ends() -> None:
    assert packed([]) == packed([None]) == b"" and quantile(merged([]), 0.5) is None
    counts = merged([packed([0, -5, 10**18])])
    assert counts[0] == 2 and counts[-1] == 1
