"""What pages draw: sums, latencies and lists over any range, from stored sums where there are some, else from entries.

Every figure is a sum of entries of the ledger, also across restarts, and at most a second or two behind. Ranges are in
seconds since the epoch; a filter names populations, all of them where it is left out.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import fields
from typing import Any

import numpy as np
from sqlalchemy import Row, case, func, select

from backend.metering import histogram
from backend.metering.entry import DOLLAR, SECOND
from backend.metering.percentiles import Percentiles
from backend.metering.ranges import cover, level_for
from backend.metering.request_list import Request, RequestList
from backend.metering.rollup import DAY, ENTRY, KEY_DAY, ROLLUP, SUMMED
from backend.metering.sums import Balance, Bucket, KeyUse, Sums, total
from backend.store.database import Database
from backend.store.tables.usage import MachineSpan, Population, State, UsageKind

EVERYONE = tuple(Population)
ANSWERED = (State.OK,)
"""Whose latency says how long people wait: not of what failed, was given up, or was given again."""
SPAN = MachineSpan.__table__  # type: ignore[attr-defined]
COLUMNS = {"ttft": "ttft_ns", "tpot": "tpot_ns", "latency": "latency_ns", "queue": "queue_ns"}
MOST_BUCKETS = 5000
BEHIND = 2.0
"""Seconds after which what ended is stored."""
APART = (Population.IDLE, Population.EMBEDDING)


class LedgerQueries:
    """Reads the ledger.

    Args:
        database: where it is.
        keep_days: how long entries are kept.
    """

    def __init__(self, database: Database, keep_days: int) -> None:
        self._database, self._keep_days = database, keep_days
        self._list = RequestList(database)

    def sums(
        self, since: float | None = None, until: float | None = None, populations: Collection[str] = EVERYONE
    ) -> Sums:
        """Totals of a range; of everything there ever was without one."""
        pieces: list[Any] = []
        if since is None and until is None:
            rows = self._rows(self._summed(ROLLUP).where(ROLLUP.c.seconds == DAY), populations, ROLLUP)
            return total(rows)
        for query, table in self._ranged(since or 0.0, until, self._summed):
            pieces += self._rows(query, populations, table)
        return total(pieces)

    def buckets(
        self, since: float, until: float | None, step: int, populations: Collection[str] = EVERYONE
    ) -> list[Bucket]:
        """Totals of each step of a range, empty ones too; edges are multiples of `step` (seconds) since the epoch.

        The first and the last are whole, whatever part of them the range covers. Steps of less than a minute are for
        short ranges: they are summed from entries. The last says how much of its time has passed.
        """
        first, end = _edges(since, until, step)
        level = level_for(step)
        table = ENTRY if level is None else ROLLUP
        start = _start(table, step)
        query = self._summed(table).add_columns(start.label("start")).group_by(start)
        rows = self._rows(query.where(*_within(table, level, first, end)), populations, table)
        by_start: dict[int, list[Any]] = defaultdict(list)
        for row in rows:
            by_start[int(row.start)].append(row)
        stored = time.time() - BEHIND
        return [
            Bucket(at, total(by_start.get(at, [])), step, min(max(stored - at, 0.0), step))
            for at in range(first, end, step)
        ]

    def latency(
        self,
        since: float | None = None,
        until: float | None = None,
        populations: Collection[str] = EVERYONE,
        measure: str = "ttft",
        states: Collection[str] = ANSWERED,
    ) -> Percentiles | None:
        """p50, p95 and p99 in seconds, at most 2 % off, and the count; None without values.

        Args:
            since: seconds since the epoch.
            until: the same, not included.
            populations: whose requests count.
            measure: "ttft", "tpot", "latency" (arrival to end) or "queue".
            states: of the requests that count.
        """
        parts: list[bytes] = []
        for query, table in self._ranged(since or 0.0, until, lambda table: _measured(table, measure)):
            parts += self._parts(query.where(*_of(table, populations, states)), table)
        return _percentiles(histogram.merged(parts))

    def latency_buckets(
        self,
        since: float,
        until: float | None,
        step: int,
        populations: Collection[str] = EVERYONE,
        measure: str = "ttft",
        states: Collection[str] = ANSWERED,
    ) -> list[tuple[int, Percentiles | None]]:
        """(start, percentiles) of each step; see `buckets` and `latency`."""
        first, end = _edges(since, until, step)
        level = level_for(step)
        table = ENTRY if level is None else ROLLUP
        query = _measured(table, measure).add_columns(_start(table, step).label("start"))
        query = query.where(*_within(table, level, first, end), *_of(table, populations, states))
        parts: dict[int, list[Any]] = defaultdict(list)
        with self._database.session() as session:
            for value, start in session.connection().execute(query):
                parts[int(start)].append(value)
        pack = (lambda values: [histogram.packed(values)]) if table is ENTRY else (lambda values: values)
        return [
            (at, _percentiles(histogram.merged(pack(parts[at]))) if at in parts else None)
            for at in range(first, end, step)
        ]

    def requests(
        self,
        since: float | None = None,
        until: float | None = None,
        populations: Collection[str] | None = None,
        *,
        limit: int = 50,
        offset: int = 0,
        search: str = "",
        states: Collection[str] | None = None,
    ) -> list[Request]:
        """Requests of a range, the latest first; see `RequestList.page`."""
        return self._list.page(
            since, until, populations, limit=limit, offset=offset, search=search, states=states
        )

    def request(self, request_id: str) -> Request | None:
        """One request's way; None where it is not, or no longer, in the ledger."""
        return self._list.one(request_id)

    def by_key(self, since: float | None = None, until: float | None = None) -> list[KeyUse]:
        """Keys that were used, the costliest first; of whole days (UTC), and of all there ever were without a range."""
        total = [func.sum(KEY_DAY.c[name]) for name in ("requests", "prompt_tokens", "output_tokens", "cost")]
        query = select(KEY_DAY.c.key_id, *total, func.max(KEY_DAY.c.last_ns)).group_by(KEY_DAY.c.key_id)
        if since is not None:
            query = query.where(KEY_DAY.c.day > since - DAY)
        if until is not None:
            query = query.where(KEY_DAY.c.day < until)
        with self._database.session() as session:
            rows = session.connection().execute(query).all()
        uses = [KeyUse(*row[:5], last=int(row[5]) / SECOND) for row in rows]
        return sorted(uses, key=lambda use: -use.cost)

    def balance(self) -> Balance:
        """The machine's time and money as of the last heartbeat."""
        query = select(*(func.coalesce(func.sum(SPAN.c[f.name]), 0) for f in fields(Balance)))
        with self._database.session() as session:
            return Balance(*map(int, session.connection().execute(query).one()))

    def ended(self, since_ns: int) -> list[tuple[float, float | None, float]]:
        """(seconds since the epoch, seconds to the first token, US dollars) of generations, oldest first."""
        query = select(ENTRY.c.finished_ns, ENTRY.c.ttft_ns, ENTRY.c.cost).order_by(ENTRY.c.finished_ns)
        query = query.where(ENTRY.c.finished_ns >= since_ns, ENTRY.c.kind == UsageKind.GENERATE)
        with self._database.session() as session:
            rows = session.connection().execute(query).all()
        return [(at / SECOND, None if ttft is None else ttft / SECOND, cost / DOLLAR) for at, ttft, cost in rows]

    # ---- how ----------------------------------------------------------------------------------------------------

    def _ranged(self, since: float, until: float | None, select_from: Any) -> Iterable[tuple[Any, Any]]:
        """Queries that together cover a range, each with its table."""
        now = time.time()
        parts = cover(since, now + DAY if until is None else until, now, self._keep_days)
        for level, first, end in parts.sums:
            yield select_from(ROLLUP).where(*_within(ROLLUP, level, first, end)), ROLLUP
        for first_ns, end_ns in parts.entries:
            yield select_from(ENTRY).where(ENTRY.c.finished_ns >= first_ns, ENTRY.c.finished_ns < end_ns), ENTRY

    @staticmethod
    def _summed(table: Any) -> Any:
        count = func.sum(table.c.requests) if table is ROLLUP else func.count()
        sums = [func.sum(table.c[name]).label(name) for name in SUMMED]
        rest = case((table.c.population.in_(APART), table.c.population), else_=Population.API)
        group = (rest, table.c.state)  # the fewest rows: populations that are summed alike are one
        return select(rest.label("population"), table.c.state, count.label("requests"), *sums).group_by(*group)

    def _rows(self, query: Any, populations: Collection[str], table: Any) -> list[Row[Any]]:
        if len(populations) < len(EVERYONE):
            query = query.where(table.c.population.in_(populations))
        with self._database.session() as session:
            return list(session.connection().execute(query).all())

    def _parts(self, query: Any, table: Any) -> list[bytes]:
        with self._database.session() as session:
            values = session.connection().execute(query).scalars().all()
        return [histogram.packed(values)] if table is ENTRY else list(values)


def _edges(since: float, until: float | None, step: int) -> tuple[int, int]:
    first = int(since // step) * step
    end = -int(-(time.time() if until is None else until) // step) * step
    return max(first, end - MOST_BUCKETS * step), end


def _start(table: Any, step: int) -> Any:
    second = table.c.start if table is ROLLUP else table.c.finished_ns // SECOND
    return second - second % step


def _within(table: Any, level: int | None, first: int, end: int) -> tuple[Any, ...]:
    if table is ENTRY:
        return table.c.finished_ns >= first * SECOND, table.c.finished_ns < end * SECOND
    return table.c.seconds == level, table.c.start >= first, table.c.start < end


def _measured(table: Any, measure: str) -> Any:
    if measure not in COLUMNS:
        raise ValueError(f"There is no measure {measure!r}. Known: {', '.join(COLUMNS)}.")
    if table is ROLLUP:
        return select(ROLLUP.c[measure])
    kinds = [UsageKind.GENERATE, *([UsageKind.EMBED] if measure == "latency" else [])]
    return select(ENTRY.c[COLUMNS[measure]]).where(ENTRY.c.kind.in_(kinds))


def _of(table: Any, populations: Collection[str], states: Collection[str]) -> tuple[Any, ...]:
    return table.c.population.in_(populations), table.c.state.in_(states)


def _percentiles(counts: np.ndarray) -> Percentiles | None:
    values = [histogram.quantile(counts, share) for share in (0.5, 0.95, 0.99)]
    p50, p95, p99 = values
    if p50 is None or p95 is None or p99 is None:
        return None
    return Percentiles(p50 / SECOND, p95 / SECOND, p99 / SECOND, int(counts.sum()))
