"""Sums over everything recorded and the latest generations, in the units that people read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from backend.metering.entry import DOLLAR, SECOND
from backend.metering.sums import Sums


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over many entries; seconds and US dollars, tokens of the three caches apart.

    Attributes:
        prompt_tokens: went to the language model.
        cached_tokens: of these, found in the prefix cache.
        repeated_tokens: belong to answers that were given again.
        reused_tokens: belong to vectors that were known.
    """

    requests: int
    prompt_tokens: int
    cached_tokens: int
    repeated_tokens: int
    reused_tokens: int
    output_tokens: int
    compute_seconds: float
    cost: float
    saved: float


class Ended(NamedTuple):
    """A generation as charts show it: seconds since the epoch; seconds, where it had a token; US dollars."""

    finished: float
    ttft: float | None
    cost: float


def totals_of(sums: Sums) -> Totals:
    """Sums in these units."""
    return Totals(
        sums.requests, sums.prompt_tokens, sums.cached_tokens, sums.repeated_prompt_tokens, sums.reused_tokens,
        sums.output_tokens + sums.repeated_output_tokens, sums.compute_ns / SECOND, sums.cost / DOLLAR,
        sums.avoided / DOLLAR,
    )  # fmt: skip
