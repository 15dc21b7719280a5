"""One entry of the ledger: whatever reached a model, from every source, failed or not, and the time between.

Times are integers in nanoseconds, money integers in nano-dollars, so that every total on every surface can be the exact
sum of the same entries. Knows nothing of how entries are stored.
"""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from backend.engine.switches import Switches
from backend.store.tables.usage import Outcome, Population, State, UsageKind

SECOND = 1_000_000_000
HOUR = 3600 * SECOND
DOLLAR = 1_000_000_000
"""Nano-dollars."""
MOST_TOKENS = (1 << 31) - 1
LONGEST_ERROR = 300
POPULATIONS = {
    "console": Population.PEOPLE,
    "api": Population.API,
    "job": Population.BATCH,
    "batch": Population.BATCH,
    "lab": Population.LAB,
    "test": Population.LAB,
}
"""By source."""


def nanoseconds(seconds: float) -> int:
    """Of seconds, which are never negative."""
    return max(round(seconds * SECOND), 0)


def price_of(duration_ns: int, per_hour: int) -> int:
    """What a time costs at nano-dollars an hour, in whole nano-dollars, rounded down; below 0 for what was lost."""
    cost = abs(duration_ns) * per_hour // HOUR
    return cost if duration_ns >= 0 else -cost


@functools.lru_cache(maxsize=256)
def fingerprint(switches: Switches) -> str:
    """Names a state of all switches."""
    return hashlib.sha256(json.dumps(switches.as_dict(), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Asked:
    """Which request an entry is of.

    Attributes:
        request_id: its id, with the engine and in the answer.
        source: who sent it: "console", "api", "job", "batch", "lab", "ingest".
        path: "realtime" or "batch".
        model: the name under which the model is served.
        key_id, tenant: of the key that asked; empty where none was.
        switches: those in force when it was started.
        search_ns: time of the search before it.
    """

    request_id: str
    source: str
    path: str
    model: str
    key_id: str = ""
    tenant: str = ""
    switches: Switches | None = None
    search_ns: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """What was asked, how it ended, what it took, what that cost, and what it did not cost.

    Attributes:
        finish_reason: as clients read it: "stop", "length", "abort" or "error"; empty for what has none.
        error: why it failed, for people.
        arrived_ns, finished_ns: since the epoch.
        queue_ns: from arrival to its first step.
        prefill_ns, decode_ns: its share of the steps that read its prompt, and of those that wrote.
        compute_ns: machine time; of an idle entry, the time in which nothing was asked.
        latency_ns: arrival to end; ttft_ns: arrival to first token; tpot_ns: a token after the first.
        cached_tokens: of the prompt tokens, those that were not computed.
        price_id: the price that `cost` is counted at.
        cost: nano-dollars, as is what each cause avoided; that is shown apart, never subtracted.
    """

    request_id: str
    kind: UsageKind
    source: str
    path: str
    model: str
    outcome: Outcome
    arrived_ns: int
    finished_ns: int
    price_id: int
    cost: int
    variant: str = ""
    key_id: str = ""
    tenant: str = ""
    switches: str = ""
    finish_reason: str = ""
    error: str = ""
    search_ns: int = 0
    queue_ns: int = 0
    prefill_ns: int = 0
    decode_ns: int = 0
    compute_ns: int = 0
    latency_ns: int = 0
    ttft_ns: int | None = None
    tpot_ns: int | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    avoided_prefix: int = 0
    avoided_embedding: int = 0
    avoided_answer: int = 0
    avoided_graph: int = 0
    avoided_speculation: int = 0

    @property
    def population(self) -> Population:
        """Whose it is; an embedding is one of its own, whoever asked."""
        if self.kind is UsageKind.IDLE:
            return Population.IDLE
        return Population.EMBEDDING if self.kind is UsageKind.EMBED else POPULATIONS.get(self.source, Population.API)

    @property
    def state(self) -> State:
        """How it ended, as sums tell it."""
        states = {Outcome.ERROR: State.FAILED, Outcome.ABORT: State.CANCELLED, Outcome.CACHED: State.CACHED}
        return states.get(self.outcome, State.OK)

    @property
    def avoided(self) -> int:
        """Nano-dollars that it did not cost, all causes together."""
        return (
            self.avoided_prefix + self.avoided_embedding + self.avoided_answer + self.avoided_graph
            + self.avoided_speculation
        )  # fmt: skip


def row_of(entry: Entry) -> dict[str, Any]:
    """An entry as the columns of its table."""
    row = {name: getattr(entry, name) for name in Entry.__slots__}
    return {**row, "population": entry.population, "state": entry.state}
