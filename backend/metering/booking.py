"""Stores a batch of entries: rows, idle time, sums and the span that they belong to, all in one transaction.

So whatever moment the process is killed at, what is stored adds up. Knows nothing of when that is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy import func, insert, update
from sqlmodel import Session, col, select

from backend.metering import rollup
from backend.metering.entry import Entry, row_of
from backend.metering.uptime import Span
from backend.store.tables.usage import EntryRow, MachineSpan, Outcome, SwitchState, UsageKind

IDLE = "idle"
"""Source and request id's beginning of idle entries."""


BARE = "Its entry could not be stored: of this request only its machine time and its cost are known."
"""The error of an entry of which nothing else is left."""
SPAN = MachineSpan.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Batch:
    """What is stored together.

    Attributes:
        entries: that ended since the last batch.
        idle: what was idle since then; it joins the idle entry of its minute and span.
        spans: as they are now; those that ended first.
        states: switches that entries name and that may not be stored yet, by fingerprint.
    """

    entries: tuple[Entry, ...] = ()
    idle: tuple[Entry, ...] = ()
    spans: tuple[Span, ...] = ()
    states: Mapping[str, dict[str, Any]] | None = None


def store(session: Session, batch: Batch) -> None:
    """Put a batch into the transaction."""
    if batch.entries:
        session.connection().execute(insert(EntryRow), [row_of(entry) for entry in batch.entries])
        rollup.add(session, batch.entries)
    for entry in batch.idle:
        _join_idle(session, entry)
    for fingerprint, switches in (batch.states or {}).items():
        if session.get(SwitchState, fingerprint) is None:
            seen = batch.entries[0].finished_ns if batch.entries else 0
            session.add(SwitchState(fingerprint=fingerprint, switches=switches, seen_ns=seen))
    for span in batch.spans:
        _keep_span(session, span)


def idle_entry(span_id: str, price_id: int, start_ns: int, end_ns: int, idle_ns: int, cost: int) -> Entry:
    """Idle time as an entry, named by its minute and span."""
    minute = end_ns // 1_000_000_000 // rollup.MINUTE
    return Entry(
        f"{IDLE}-{span_id}-{minute}", UsageKind.IDLE, IDLE, "", "", Outcome.STOP, min(start_ns, end_ns), end_ns,
        price_id, cost, compute_ns=idle_ns,
    )  # fmt: skip


def bare(entry: Entry) -> Entry:
    """What of an entry every database takes: whose it was, when, its machine time and its cost; it says so."""
    return Entry(
        entry.request_id, entry.kind, entry.source, entry.path, entry.model, entry.outcome, entry.finished_ns,
        entry.finished_ns, entry.price_id, entry.cost, key_id=entry.key_id, compute_ns=entry.compute_ns, error=BARE,
    )  # fmt: skip


def healed(batch: Batch, storable: Callable[[Batch], bool]) -> Batch:
    """The same machine time and money, in entries that can all be stored.

    One that cannot is `bare`; where that cannot either, its time is idle. Those beside it stay as they are.

    Args:
        batch: that could not be stored.
        storable: whether another could.
    """
    kept: list[Entry] = []
    idle = list(batch.idle)
    for entry in batch.entries:
        found = next((one for one in (entry, bare(entry)) if storable(Batch((one,)))), None)
        if found is not None:
            kept.append(found)
        else:
            span = batch.spans[-1].id if batch.spans else "unknown"
            end = entry.finished_ns
            idle.append(idle_entry(span, entry.price_id, end, end, entry.compute_ns, entry.cost))
    return replace(batch, entries=tuple(kept), idle=tuple(idle))


def _join_idle(session: Session, entry: Entry) -> None:
    """Once a second, so in three plain statements but for the first of a minute."""
    joined = session.connection().execute(
        update(rollup.ENTRY)
        .where(rollup.ENTRY.c.request_id == entry.request_id)
        .values(
            compute_ns=rollup.ENTRY.c.compute_ns + entry.compute_ns, cost=rollup.ENTRY.c.cost + entry.cost,
            finished_ns=entry.finished_ns,
        )
    )  # fmt: skip
    if joined.rowcount:
        rollup.add_idle(session, entry)
        return
    session.connection().execute(insert(EntryRow), [row_of(entry)])
    rollup.add(session, [entry])


def _keep_span(session: Session, span: Span) -> None:
    row = asdict(span)
    known = session.connection().execute(update(SPAN).where(SPAN.c.id == span.id).values(row))
    if not known.rowcount:
        session.connection().execute(insert(SPAN), [row])


def close_open_spans(session: Session) -> MachineSpan | None:
    """After a kill: what nobody was charged for until the last heartbeat is idle. Gives the span that was open."""
    left = session.exec(select(MachineSpan).where(col(MachineSpan.closed).is_(False))).all()
    if not left:
        return None
    latest = max(left, key=lambda span: span.heartbeat_ns)
    names = ("uptime_ns", "booked_ns", "due", "booked")
    sums = [func.coalesce(func.sum(getattr(MachineSpan, name)), 0) for name in names]
    uptime_ns, booked_ns, due, booked = map(int, session.exec(select(*sums)).one())
    if (uptime_ns, due) != (booked_ns, booked):
        entry = idle_entry(
            latest.id, latest.price_id, latest.heartbeat_ns, latest.heartbeat_ns, uptime_ns - booked_ns, due - booked
        )
        _join_idle(session, entry)
        latest.booked_ns += entry.compute_ns
        latest.booked += entry.cost
    for span in left:
        span.closed = True
        session.add(span)
    return latest
