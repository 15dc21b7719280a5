"""Sums over entries of the ledger, as pages are given them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from backend.metering.entry import DOLLAR
from backend.metering.rollup import SUMMED
from backend.store.tables.usage import Population, State

LEAST_SECONDS, LEAST_PART = 20.0, 20
"""Time from which a bucket that is open tells a rate: so many seconds, and one part in so many of its step."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over entries; times in nanoseconds, money in nano-dollars.

    Attributes:
        requests: of every kind, idle time not counted; failed, cancelled and repeated of these. Repeated were answers
            that were given again.
        prompt_tokens: of requests that went to the language model; cached_tokens were found in the prefix cache.
        repeated_prompt_tokens, repeated_output_tokens: of answers that were given again.
        embedded_tokens, reused_tokens: computed by the embedding model, and those whose vectors were known.
        compute_ns, cost: of requests; idle_ns, idle_cost: of the time between.
        avoided_*: what was not computed, by cause.
    """

    requests: int = 0
    failed: int = 0
    cancelled: int = 0
    repeated: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    repeated_prompt_tokens: int = 0
    repeated_output_tokens: int = 0
    embedded_tokens: int = 0
    reused_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    queue_ns: int = 0
    prefill_ns: int = 0
    decode_ns: int = 0
    compute_ns: int = 0
    idle_ns: int = 0
    cost: int = 0
    idle_cost: int = 0
    avoided_prefix: int = 0
    avoided_embedding: int = 0
    avoided_answer: int = 0
    avoided_graph: int = 0
    avoided_speculation: int = 0

    @property
    def avoided(self) -> int:
        """Of all causes together."""
        return sum(self.avoided_by_cause.values())

    @property
    def avoided_by_cause(self) -> dict[str, int]:
        """By the cause's name."""
        causes = ("prefix", "embedding", "answer", "graph", "speculation")
        return {cause: getattr(self, f"avoided_{cause}") for cause in causes}

    @property
    def utilization(self) -> float | None:
        """Share of the machine's time that requests took; None without any time."""
        total = self.compute_ns + self.idle_ns
        return self.compute_ns / total if total > 0 else None

    def per_thousand_out(self, *, with_idle: bool) -> float | None:
        """US dollars of 1,000 tokens written; None where none was."""
        if not self.output_tokens:
            return None
        return (self.cost + (self.idle_cost if with_idle else 0)) / DOLLAR / self.output_tokens * 1000

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Sums)))


@dataclass(frozen=True, slots=True)
class Bucket:
    """Sums of [start, start + step), in seconds since the epoch.

    Attributes:
        seconds: that are in it: its step, and of the one that is still open as many as have passed and are stored.
    """

    start: int
    sums: Sums
    step: int
    seconds: float

    def per_second(self, amount: float) -> float | None:
        """An amount over the time that it came in; None while that is too short a time to tell.

        Divided by its whole step, a bucket that is open would always fall behind those before it.
        """
        if self.seconds < min(self.step, max(LEAST_SECONDS, self.step / LEAST_PART)):
            return None
        return amount / self.seconds


@dataclass(frozen=True, slots=True)
class KeyUse:
    """What a key's requests took; `last` in seconds since the epoch, `cost` in nano-dollars."""

    key_id: str
    requests: int
    prompt_tokens: int
    output_tokens: int
    cost: int
    last: float


@dataclass(frozen=True, slots=True)
class Balance:
    """The machine's time and money: due = booked + held back for what has not ended yet. See `uptime`."""

    uptime_ns: int
    booked_ns: int
    due: int
    booked: int


COUNTED = tuple(name for name in SUMMED if name not in ("prompt_tokens", "cached_tokens", "output_tokens"))
ENDED = {State.FAILED: "failed", State.CANCELLED: "cancelled", State.CACHED: "repeated"}


def total(rows: Iterable[Any]) -> Sums:
    """Of rows (population, state, number of requests, and the columns of `rollup.SUMMED` in order)."""
    out: dict[str, int] = dict.fromkeys((f.name for f in fields(Sums)), 0)
    for population, state, requests, prompt, cached, written, *values in (row[: 3 + len(SUMMED)] for row in rows):
        if population == Population.IDLE:
            out["idle_ns"] += int(values[COUNTED.index("compute_ns")])
            out["idle_cost"] += int(values[COUNTED.index("cost")])
            continue
        for name, value in zip(COUNTED, values, strict=True):
            out[name] += int(value)
        out["requests"] += int(requests)
        if state in ENDED:
            out[ENDED[state]] += int(requests)
        if population == Population.EMBEDDING:
            out["embedded_tokens"] += int(prompt) - int(cached)
            out["reused_tokens"] += int(cached)
        elif state == State.CACHED:
            out["repeated_prompt_tokens"] += int(prompt)
            out["repeated_output_tokens"] += int(written)
        else:
            out["prompt_tokens"] += int(prompt)
            out["cached_tokens"] += int(cached)
            out["output_tokens"] += int(written)
    return Sums(**out)
