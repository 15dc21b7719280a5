"""Sums of entries by minute, hour and day, kept up with every batch of entries in the transaction that stores them.

So a sum over any range needs few rows however many entries there were, entries can be deleted once they are old, and
one that comes late still counts where it belongs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import and_, bindparam, delete, func, insert, or_, select, update
from sqlmodel import Session, col

from backend.metering.entry import SECOND, Entry
from backend.metering.histogram import merge, packed
from backend.store.tables.settings import Setting
from backend.store.tables.usage import EntryRow, KeyDay, RollUp, UsageKind

MINUTE, HOUR, DAY = 60, 3600, 86_400
LEVELS = (MINUTE, HOUR, DAY)
SUMMED = (
    "prompt_tokens", "cached_tokens", "output_tokens", "drafted_tokens", "accepted_tokens", "queue_ns", "prefill_ns",
    "decode_ns", "compute_ns", "cost", "avoided_prefix", "avoided_embedding", "avoided_answer", "avoided_graph",
    "avoided_speculation",
)  # fmt: skip
MEASURES = ("ttft", "tpot", "latency", "queue")
"""Latencies of which histograms are kept."""
MINUTE_DAYS, HOUR_DAYS = 14, 400
"""How long sums by the minute and by the hour are kept; those by the day stay."""
TOGETHER = 5000
"""Entries deleted or summed at a time."""
CATCHING_UP = "ledger_sums"
"""The setting that says how far old entries are summed."""

ROLLUP = RollUp.__table__  # type: ignore[attr-defined]
ENTRY = EntryRow.__table__  # type: ignore[attr-defined]
KEY_DAY = KeyDay.__table__  # type: ignore[attr-defined]
Where = tuple[int, int, str, str]
"""Seconds of the level, start, population and state: which row of sums an entry counts in."""


def add(session: Session, entries: Sequence[Entry]) -> None:
    """Count entries, in the transaction that stores them."""
    groups: dict[Where, list[Entry]] = defaultdict(list)
    for entry in entries:
        second = entry.finished_ns // SECOND
        for level in LEVELS:
            groups[level, second - second % level, entry.population.value, entry.state.value].append(entry)
    _store(session, {where: _sums(group) for where, group in groups.items()})
    _count_keys(session, entries)


def add_idle(session: Session, entry: Entry) -> None:
    """Count what an idle entry that was counted before has grown by."""
    second = entry.finished_ns // SECOND
    rows = [and_(ROLLUP.c.seconds == level, ROLLUP.c.start == second - second % level) for level in LEVELS]
    whose = (ROLLUP.c.population == entry.population, ROLLUP.c.state == entry.state)
    session.connection().execute(
        update(ROLLUP)
        .where(or_(*rows), *whose)
        .values(compute_ns=ROLLUP.c.compute_ns + entry.compute_ns, cost=ROLLUP.c.cost + entry.cost)
    )


def _sums(entries: list[Entry]) -> dict[str, Any]:
    out: dict[str, Any] = {"requests": len(entries)}
    for name in SUMMED:
        out[name] = sum(getattr(entry, name) for entry in entries)
    generated = [entry for entry in entries if entry.kind is UsageKind.GENERATE]
    timed = [entry for entry in entries if entry.kind is not UsageKind.IDLE]
    out["ttft"] = packed(entry.ttft_ns for entry in generated)
    out["tpot"] = packed(entry.tpot_ns for entry in generated)
    out["latency"] = packed(entry.latency_ns for entry in timed)
    out["queue"] = packed(entry.queue_ns for entry in generated)
    return out


def _store(session: Session, sums: dict[Where, dict[str, Any]]) -> None:
    connection = session.connection()
    known: dict[Where, Any] = {}
    for level in LEVELS:
        starts = {where[1] for where in sums if where[0] == level}
        query = select(ROLLUP).where(ROLLUP.c.seconds == level, ROLLUP.c.start.in_(starts))
        for row in connection.execute(query).mappings():
            known[level, row["start"], row["population"].value, row["state"].value] = row
    new: list[dict[str, Any]] = []
    changed: list[dict[str, Any]] = []
    for where, added in sums.items():
        before = known.get(where)
        if before is None:
            new.append({**dict(zip(("seconds", "start", "population", "state"), where, strict=True)), **added})
            continue
        total = {name: before[name] + added[name] for name in ("requests", *SUMMED)}
        total |= {name: merge([before[name], added[name]]) if added[name] else before[name] for name in MEASURES}
        changed.append({**dict(zip(("w_seconds", "w_start", "w_population", "w_state"), where, strict=True)), **total})
    if new:
        connection.execute(insert(ROLLUP), new)
    if changed:
        at = (ROLLUP.c[name] == bindparam(f"w_{name}") for name in ("seconds", "start", "population", "state"))
        connection.execute(
            update(ROLLUP).where(*at).values({n: bindparam(n) for n in ("requests", *SUMMED, *MEASURES)}), changed
        )


def _count_keys(session: Session, entries: Iterable[Entry]) -> None:
    by_day: dict[tuple[str, int], list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.key_id:
            second = entry.finished_ns // SECOND
            by_day[entry.key_id, second - second % DAY].append(entry)
    for (key_id, day), group in by_day.items():
        row = session.get(KeyDay, (key_id, day)) or KeyDay(key_id=key_id, day=day)
        row.requests += len(group)
        row.prompt_tokens += sum(entry.prompt_tokens for entry in group)
        row.output_tokens += sum(entry.output_tokens for entry in group)
        row.cost += sum(entry.cost for entry in group)
        row.last_ns = max(row.last_ns, *(entry.finished_ns for entry in group))
        session.add(row)
    session.flush()


def entry_of(row: Any) -> Entry:
    """An entry from its stored columns."""
    return Entry(**{name: row[name] for name in Entry.__slots__})


def catch_up(session: Session) -> bool:
    """Count the next of the entries that were stored before there were sums; whether there may be more of them.

    How far it has come is stored in the same transaction: a server that is killed in the middle goes on from there.
    """
    begun = session.get(Setting, CATCHING_UP)
    if begun is not None:
        after, last = begun.value["after"], begun.value["last"]
    elif session.connection().execute(select(ROLLUP.c.start).limit(1)).first() is not None:
        return False  # there were sums with the first entry
    else:
        after, last = 0, session.connection().execute(select(func.max(ENTRY.c.id))).scalar() or 0
    if after >= last:
        return False
    query = select(ENTRY).where(ENTRY.c.id > after, ENTRY.c.id <= last).order_by(ENTRY.c.id).limit(TOGETHER)
    rows = session.connection().execute(query).mappings().all()
    add(session, [entry_of(row) for row in rows])
    session.merge(Setting(key=CATCHING_UP, value={"after": int(rows[-1]["id"]) if rows else last, "last": last}))
    return True


def prune(session: Session, *, entries_before: int, now: int) -> int:
    """Delete what is older than it is kept, entries only so many at a time; gives how many entries went.

    Args:
        session: commits it.
        entries_before: nanoseconds since the epoch; entries that ended before go. Their sums stay.
        now: seconds since the epoch.
    """
    connection = session.connection()
    old = select(ENTRY.c.id).where(ENTRY.c.finished_ns < entries_before).order_by(ENTRY.c.finished_ns).limit(TOGETHER)
    gone = connection.execute(delete(ENTRY).where(ENTRY.c.id.in_(old))).rowcount
    for level, days in ((MINUTE, MINUTE_DAYS), (HOUR, HOUR_DAYS)):
        connection.execute(delete(RollUp).where(col(RollUp.seconds) == level, col(RollUp.start) < now - days * DAY))
    return int(gone)
