"""Budgets and rates: what keys, and all requests together, may use before they are refused; told in time.

Money is counted from what the ledger has summed, and from each entry since then as its request ends, stored or not.
What runs has no cost yet: a budget is overdrawn by at most what was in flight when it was used up. Idle time is
nobody's, and counts for none. In memory, so that asking costs a request nothing.
"""

from __future__ import annotations

import calendar
import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlmodel import col, select

from backend.errors import BudgetError, RateError
from backend.metering.entry import DOLLAR, SECOND, Entry
from backend.metering.happenings import Happenings
from backend.metering.metric_family import Point
from backend.metering.queries import LedgerQueries
from backend.metering.rollup import DAY
from backend.store.database import Database
from backend.store.limits import Limits
from backend.store.tables.happenings import HappeningKind
from backend.store.tables.settings import Setting
from backend.store.tables.usage import KeyDay, UsageKind

SETTING = "limits"
ALL = ""
"""Stands for all requests together where a key's id stands else."""
MINUTE = 60.0
ROUNDING = 1e-6
"""Of a token that is as good as there."""
KEPT_DAYS = 40
"""More than any month has."""


class Period(StrEnum):
    """Times that money is limited in, by UTC."""

    DAY = "day"
    MONTH = "month"

    def bounds(self, now: float) -> tuple[int, int]:
        """[start, end) of the one that holds a time, in seconds since the epoch."""
        day = int(now) // DAY * DAY
        if self is Period.DAY:
            return day, day + DAY
        at = datetime.fromtimestamp(now, UTC)
        days = calendar.monthrange(at.year, at.month)[1]
        start = day - (at.day - 1) * DAY
        return start, start + days * DAY


@dataclass(frozen=True, slots=True)
class Spent:
    """Nano-dollars of this day and this month (UTC)."""

    day: int
    month: int


class Bucket:
    """Tokens that fill up evenly; a request takes one. As many as fill up in a minute fit."""

    def __init__(self, now: float) -> None:
        self._level, self._at, self._size = math.inf, now, 0

    def wait(self, size: int, now: float) -> float:
        """Seconds until there is a token; 0 where there is one."""
        if self._size and size != self._size:
            self._level = min(self._level, size)
        self._size = size
        self._level = min(size, self._level + max(now - self._at, 0.0) * size / MINUTE)
        self._at = now
        return 0.0 if self._level >= 1 - ROUNDING else (1 - self._level) * MINUTE / size

    def take(self) -> None:
        """Take one, after `wait` said that there is one."""
        self._level -= 1


class Budgets:
    """Says who may begin something, and tells when a budget runs out.

    Args:
        database: where the installation's limits and the sums are.
        queries: sums of the ledger.
        of_key: the limits of a key by its id.
        shown: how a key of an id is named to people.
        happenings: is told of a budget that is nearly or wholly spent.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        database: Database,
        queries: LedgerQueries,
        of_key: Callable[[str], Limits],
        shown: Callable[[str], str],
        happenings: Happenings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database, self._queries, self._of_key = database, queries, of_key
        self._shown, self._happenings, self._clock = shown, happenings, clock
        self._lock, self._changing = threading.Lock(), threading.Lock()
        self._spent: dict[str, dict[int, int]] = {}  # by key and day
        self._buckets: dict[str, Bucket] = {}
        self._told: set[tuple[str, Period, int, bool]] = set()
        self._refused: Counter[str] = Counter()
        with database.session() as session:
            stored = session.get(Setting, SETTING)
        self._installation = Limits(**stored.value) if stored is not None else Limits()
        self.load()

    def load(self) -> None:
        """Begin with what the ledger has summed of this month."""
        since, _ = Period.MONTH.bounds(self._clock())
        spent: dict[str, dict[int, int]] = defaultdict(dict)
        with self._database.session() as session:
            for row in session.exec(select(KeyDay).where(col(KeyDay.day) >= since)):
                spent[row.key_id][row.day] = row.cost
        for bucket in self._queries.buckets(since, None, DAY):
            spent[ALL][bucket.start] = bucket.sums.cost
        with self._lock:
            self._spent = dict(spent)

    # ---- limits --------------------------------------------------------------------------------------------------

    @property
    def installation(self) -> Limits:
        """Of all requests together."""
        return self._installation

    def limit(self, **changes: Any) -> Limits:
        """Change limits of all requests together, and keep them; those that are not named stay."""
        with self._changing:  # not the lock that requests take: the database takes its time
            limits = replace(self._installation, **changes)
            with self._database.session() as session:
                session.merge(Setting(key=SETTING, value=asdict(limits)))
            self._installation = limits
        return limits

    def spent(self, key_id: str = ALL) -> Spent:
        """What a key's requests, or all together, have cost."""
        with self._lock:
            return Spent(self._sum(key_id, Period.DAY), self._sum(key_id, Period.MONTH))

    # ---- asking --------------------------------------------------------------------------------------------------

    def take(self, key_id: str) -> None:
        """Count a request that is about to begin.

        Raises:
            BudgetError: see `check`.
            RateError: too many were begun in the last minute; says when the next may be.
        """
        self.check(key_id)
        with self._lock:
            now, taken = self._clock(), []
            for scope, limits in self._scopes(key_id):
                if limits.requests_per_minute is None:
                    continue
                bucket = self._buckets.setdefault(scope, Bucket(now))
                wait = bucket.wait(limits.requests_per_minute, now)
                if wait:
                    self._refused["rate"] += 1
                    raise RateError(
                        f"{self._whose(scope)} may begin {limits.requests_per_minute} requests a minute, and has. "
                        "Try again in a moment.",
                        retry_after=math.ceil(wait),
                    )
                taken.append(bucket)
            for bucket in taken:
                bucket.take()

    def check(self, key_id: str) -> None:
        """Refuse what nobody has money for.

        Raises:
            BudgetError: a budget of the key, or of all together, is used up; says until when.
        """
        with self._counting() as news:
            for scope, limits in self._scopes(key_id):
                for period, limit in _budgets(limits):
                    spent = self._sum(scope, period)
                    if spent < limit:
                        continue
                    self._refused[f"budget_{period}"] += 1
                    news += self._news(scope, period, limit, limits.warn_percent)
                    now = self._clock()
                    _, end = period.bounds(now)
                    raise BudgetError(
                        f"{self._whose(scope)} has used its budget of {_dollars(limit)} for this {period}: "
                        f"{_dollars(spent)} are spent. It begins anew at {_moment(end)}; "
                        "an administrator can raise it.",
                        brief=f"{'The key' if scope else 'This installation'} has used its budget for this {period}. "
                        f"It begins anew at {_moment(end)}; an administrator can raise it.",
                        retry_after=math.ceil(end - now),
                    )

    def observe(self, entry: Entry) -> None:
        """Count what an entry cost, and tell when a budget is nearly or wholly spent."""
        if entry.kind is UsageKind.IDLE:
            return
        day = entry.finished_ns // SECOND // DAY * DAY
        with self._counting() as news:
            for scope, limits in self._scopes(entry.key_id):
                days = self._spent.setdefault(scope, {})
                days[day] = days.get(day, 0) + entry.cost
                if len(days) > KEPT_DAYS:
                    del days[min(days)]
                for period, limit in _budgets(limits):
                    news += self._news(scope, period, limit, limits.warn_percent)

    @contextmanager
    def _counting(self) -> Iterator[list[Callable[[], None]]]:
        """The lock that requests take on the event loop: what is to be told waits for its end, since that may write."""
        news: list[Callable[[], None]] = []
        try:
            with self._lock:
                yield news
        finally:
            for tell in news:
                tell()

    def _scopes(self, key_id: str) -> Iterator[tuple[str, Limits]]:
        if key_id:
            yield key_id, self._of_key(key_id)
        yield ALL, self._installation

    def _whose(self, scope: str) -> str:
        return f"Key {self._shown(scope)}" if scope else "This installation"

    def _sum(self, scope: str, period: Period) -> int:
        start, end = period.bounds(self._clock())
        return sum(cost for day, cost in self._spent.get(scope, {}).items() if start <= day < end)

    def _news(self, scope: str, period: Period, limit: int, warn_percent: int) -> Iterator[Callable[[], None]]:
        """What tells of a budget's use, where that is news."""
        spent, (start, end) = self._sum(scope, period), period.bounds(self._clock())
        over = spent >= limit
        if spent * 100 < limit * warn_percent or (scope, period, start, over) in self._told:
            return
        self._told.add((scope, period, start, over))
        said = f"{self._whose(scope)} has spent {_dollars(spent)} of {_dollars(limit)} for this {period}"
        after = f": refused until {_moment(end)}." if over else "."
        note = self._happenings.note
        yield lambda: note(HappeningKind.BUDGET, said + after, key_id=scope, period=period.value, over=over)

    # ---- metrics -------------------------------------------------------------------------------------------------

    def refusals(self) -> Iterator[Point]:
        """How many were refused since the start, by why."""
        with self._lock:
            refused = dict(self._refused)
        yield from (((reason,), count) for reason, count in refused.items())

    def used(self, key_ids: list[str]) -> Iterator[Point]:
        """Share of each budget that is spent."""
        with self._lock:
            scopes = [(ALL, self._installation), *((key_id, self._of_key(key_id)) for key_id in key_ids)]
            points = [
                ((scope, period.value), self._sum(scope, period) / limit if limit else 1.0)
                for scope, limits in scopes
                for period, limit in _budgets(limits)
            ]
        yield from points


def _budgets(limits: Limits) -> list[tuple[Period, int]]:
    both = ((Period.DAY, limits.day), (Period.MONTH, limits.month))
    return [(period, limit) for period, limit in both if limit is not None]


def _dollars(nano: int) -> str:
    return f"${nano / DOLLAR:.6f}".rstrip("0").rstrip(".")


def _moment(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
