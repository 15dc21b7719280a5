"""The requests that a live measurement looks at: those that ended, from the ledger, and those that wait.

What the lab sends, what failed and what was given up is nobody's traffic here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from backend.metering.entry import SECOND, Entry
from backend.metering.rollup import ENTRY, entry_of
from backend.store.database import Database
from backend.store.tables.usage import Outcome, Population, State, UsageKind
from backend.switchboard.worth import Served

SLACK = 1.0
"""Seconds that a stored entry's stamps may be off the moment at which it was asked for."""
INGEST = "ingest"
LIVE = (Population.PEOPLE, Population.API)
"""Who waits for a first token."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request that has not ended: when it came (seconds since the epoch), and whether somebody waits for a token."""

    created: float
    unanswered: bool


def arrived(database: Database, since: float, until: float, switches: str | None = None) -> list[Entry]:
    """Requests that arrived within a time and have ended well, the earliest end first.

    Args:
        database: of the ledger, as far as it is stored.
        since: seconds since the epoch.
        until: the same, not included.
        switches: fingerprint of those that were in force when they were started; all where left out.
    """
    query = select(ENTRY).where(
        ENTRY.c.finished_ns >= int((since - SLACK) * SECOND), ENTRY.c.arrived_ns >= int(since * SECOND),
        ENTRY.c.arrived_ns < int(until * SECOND), ENTRY.c.state.in_((State.OK, State.CACHED)),
        ENTRY.c.population.notin_((Population.IDLE, Population.LAB)), ENTRY.c.outcome != Outcome.REPLY,
    )  # fmt: skip
    if switches is not None:
        query = query.where(ENTRY.c.switches == switches)
    with database.session() as session:
        rows = session.connection().execute(query.order_by(ENTRY.c.finished_ns)).mappings().all()
    return [entry_of(row) for row in rows]


def served(entries: Sequence[Entry], *, reading: bool) -> list[Served]:
    """Entries as a trial counts them; embedding documents only where `reading` is set, as it comes when it comes."""
    return [_served(entry) for entry in entries if reading or entry.source != INGEST]


def _served(entry: Entry) -> Served:
    embedding, again = entry.kind is UsageKind.EMBED, entry.state is State.CACHED
    return Served(
        f"embedding for {entry.source}" if embedding else entry.source,
        again,
        entry.prompt_tokens,
        entry.output_tokens,
        (entry.compute_ns if embedding else entry.prefill_ns) / SECOND,
        entry.decode_ns / SECOND,
        None if entry.ttft_ns is None else entry.ttft_ns / SECOND,
        None if entry.tpot_ns is None or again else entry.tpot_ns / SECOND,
    )


def late(entries: Sequence[Entry], waiting: Sequence[Waiting], now: float, limit: float) -> bool:
    """Whether more than one in twenty of those who wait for a first token waits longer than `limit` seconds."""
    waits = [entry.ttft_ns / SECOND for entry in entries if entry.ttft_ns is not None and entry.population in LIVE]
    waits += [now - one.created for one in waiting if one.unanswered and now - one.created > limit]
    return sum(wait > limit for wait in waits) > len(waits) / 20


Unended = Callable[[], Sequence[Waiting]]
