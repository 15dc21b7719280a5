"""Requests of the ledger, one by one: a page of a list, and one request's way."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from backend.metering.entry import DOLLAR, SECOND, Entry
from backend.metering.rollup import ENTRY, entry_of
from backend.store.beginning import begins_with
from backend.store.database import Database
from backend.store.tables.usage import Population, PriceVersion, State, SwitchState

REQUESTS = tuple(population for population in Population if population is not Population.IDLE)
MOST = 1000


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a request's way, and its seconds."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Request:
    """An entry as people read it, and, of one that was asked for by itself, its price and switches."""

    entry: Entry
    price: PriceVersion | None = None
    switches: dict[str, Any] | None = None

    @property
    def arrived(self) -> float:
        """Seconds since the epoch."""
        return self.entry.arrived_ns / SECOND

    @property
    def dollars(self) -> float:
        """What it cost."""
        return self.entry.cost / DOLLAR

    @property
    def way(self) -> list[Step]:
        """Search, queue, prefill, decode: by the clock, so that the last three are its latency."""
        entry, steps = self.entry, []
        if entry.search_ns:
            steps.append(Step("search", entry.search_ns / SECOND))
        if entry.ttft_ns is None:
            waited = min(entry.queue_ns, entry.latency_ns)
            rest = (entry.latency_ns - waited) / SECOND
            return [*steps, Step("queue", waited / SECOND), Step("until it ended", rest)]
        queue = min(entry.queue_ns, entry.ttft_ns)
        return [
            *steps, Step("queue", queue / SECOND), Step("prefill", (entry.ttft_ns - queue) / SECOND),
            Step("decode", (entry.latency_ns - entry.ttft_ns) / SECOND),
        ]  # fmt: skip


class RequestList:
    """Finds requests by an index, however many there are."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(
        self,
        since: float | None,
        until: float | None,
        populations: Collection[str] | None,
        *,
        limit: int,
        offset: int,
        search: str,
        states: Collection[str] | None,
    ) -> list[Request]:
        """Requests that ended in a range, the latest first.

        Args:
            since: seconds since the epoch.
            until: the same, not included.
            populations: only these; all where left out.
            states: the same.
            limit: at most so many, and never more than 1,000.
            offset: of the list's beginning.
            search: the beginning of a request's id, or a key's id.
        """
        limit = max(min(limit, MOST), 0)
        where = [ENTRY.c.population != Population.IDLE]
        if since is not None:
            where.append(ENTRY.c.finished_ns >= int(since * SECOND))
        if until is not None:
            where.append(ENTRY.c.finished_ns < int(until * SECOND))
        found: set[tuple[int, int]] = set()
        with self._database.session() as session:
            connection = session.connection()
            for one in _walks(search.strip(), populations, states):
                query = select(ENTRY.c.finished_ns, ENTRY.c.id).where(*where, *one)
                query = query.order_by(ENTRY.c.finished_ns.desc(), ENTRY.c.id.desc()).limit(offset + limit)
                found.update((row[0], row[1]) for row in connection.execute(query))
            ids = [row[1] for row in heapq.nlargest(offset + limit, found)[offset:]]
            rows = connection.execute(select(ENTRY).where(ENTRY.c.id.in_(ids))).mappings().all()
        by_id = {row["id"]: row for row in rows}
        return [Request(entry_of(by_id[number])) for number in ids if number in by_id]

    def one(self, request_id: str) -> Request | None:
        """A request with the price and the switches that it ran under."""
        with self._database.session() as session:
            query = select(ENTRY).where(ENTRY.c.request_id == request_id).order_by(ENTRY.c.id.desc()).limit(1)
            row = session.connection().execute(query).mappings().first()
            if row is None:
                return None
            entry = entry_of(row)
            state = session.get(SwitchState, entry.switches) if entry.switches else None
            return Request(entry, session.get(PriceVersion, entry.price_id), state.switches if state else None)


def _walks(
    search: str, populations: Collection[str] | None, states: Collection[str] | None
) -> Iterator[tuple[Any, ...]]:
    """Conditions that together find what is asked for, each by a walk along an index that ends after enough rows.

    One condition over all of it would have the database sort everything that is found.
    """
    if search:
        rest: list[Any] = [] if populations is None else [ENTRY.c.population.in_(populations)]
        rest += [] if states is None else [ENTRY.c.state.in_(states)]
        yield begins_with(ENTRY.c.request_id, search), *rest
        yield ENTRY.c.key_id == search, *rest
    elif states is None and (populations is None or set(REQUESTS) <= set(populations)):
        yield ()
    else:
        for population in set(populations or REQUESTS) & set(REQUESTS):
            for state in states or State:
                yield ENTRY.c.population == population, ENTRY.c.state == state
