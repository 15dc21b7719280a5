"""One filter for every figure: people, the API, jobs and answers given again are never one population."""

from __future__ import annotations

from dataclasses import dataclass

SERVED = ("people", "api", "batch")
"""What was asked for by people and programs: the lab's own measurements are nobody's traffic."""
RANGES = {"5 min": 300, "1 h": 3600, "24 h": 86400, "7 days": 7 * 86400, "30 days": 30 * 86400}
STEPS = {300: 5, 3600: 60, 86400: 1800, 7 * 86400: 3 * 3600, 30 * 86400: 12 * 3600}
"""Seconds of a bucket, by those of the range."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which requests are shown.

    Attributes:
        name: as the filter shows it.
        populations: of the ledger.
        states: of the ledger; those of their latencies.
    """

    name: str
    populations: tuple[str, ...]
    states: tuple[str, ...]


FILTERS = {
    one.name: one
    for one in (
        Filter("People", ("people",), ("ok", "failed", "cancelled")),
        Filter("API", ("api",), ("ok", "failed", "cancelled")),
        Filter("Jobs", ("batch",), ("ok", "failed", "cancelled")),
        Filter("Given again", ("people", "api", "batch"), ("cached",)),
        Filter("Embeddings", ("embedding",), ("ok", "failed", "cancelled")),
        Filter("Lab", ("lab",), ("ok", "failed", "cancelled")),
    )
}
