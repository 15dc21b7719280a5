"""Has entries stored, many to a commit, together with the idle time and the span of uptime that they belong to.

It keeps the identity of `uptime`, and knows nothing of what an entry is of.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Protocol

from sqlmodel import Session

from backend.engine.switches import Switches
from backend.metering.booking import Batch, healed, idle_entry, store
from backend.metering.entry import Entry, fingerprint
from backend.metering.prices import MachinePrice
from backend.metering.uptime import Span, Uptime
from backend.store.database import Database
from backend.store.failures import named_failures
from backend.store.writer import TooManyWaitError, Write, cause, passing

log = logging.getLogger(__name__)

KEPT, IDLE = "only machine time and cost are kept", "the machine time counts as idle"
"""What became of entries that could not be stored."""


class Clock(Protocol):
    """Time for stamps (nanoseconds since the epoch) and for durations (monotonic nanoseconds)."""

    def time_ns(self) -> int: ...  # noqa: D102
    def monotonic_ns(self) -> int: ...  # noqa: D102


class Bookkeeper:
    """Keeps the books of one server. Thread-safe; waits for no disk.

    Args:
        database: where they are kept, by its writer.
        observe: is told of idle time.
        tell: is told in a sentence of entries that could not be stored.
        clock: what time it is.

    Attributes:
        unstored: entries that could not be stored, since the start: of each only its time and its cost are kept, or its
            time is idle.
    """

    def __init__(
        self, database: Database, observe: Callable[[Entry], None], tell: Callable[[str], None], clock: Clock
    ) -> None:
        self._database, self._observe, self._tell, self._clock = database, observe, tell, clock
        self.unstored = 0
        self._lock, self._ticking = threading.Lock(), threading.Lock()
        self._pending: list[Entry] = []
        self._states: dict[str, dict[str, Any]] = {}  # that may not be stored yet
        self._ended: list[Span] = []
        self._idle: list[Entry] = []
        self._uptime: Uptime | None = None
        self._taken = 0  # stamp of the last idle time

    def begin(self, price: MachinePrice) -> None:
        """Count uptime from now on, at a price."""
        with self._lock:
            stamp = self._taken = self._clock.time_ns()
            self._uptime = Uptime(price.id, price.nano_per_hour, self._clock.monotonic_ns(), stamp)

    def change_price(self, price: MachinePrice) -> None:
        """Count uptime at another price from now on."""
        with self._lock:
            if self._uptime is None:
                return
            self._take_idle()
            now, stamp = self._clock.monotonic_ns(), self._clock.time_ns()
            self._ended.append(self._uptime.change_price(price.id, price.nano_per_hour, now, stamp))

    def computed(self, busy_seconds: float) -> None:
        """The engine has been busy for so long since it started: that is not idle, though nobody paid for it yet."""
        with self._lock:
            if self._uptime is not None:
                self._uptime.computed(busy_seconds)

    def put(self, entry: Entry, switches: Switches | None) -> None:
        """Book an entry, and keep it to be stored with the next batch."""
        with self._lock:
            if self._uptime is not None:
                self._uptime.book(entry.compute_ns, entry.cost)
            self._pending.append(entry)
            if switches is not None:
                self._states.setdefault(fingerprint(switches), switches.as_dict())

    def tick(self, *, last: bool = False) -> None:
        """Have what ended, and how long the server has run, stored soon.

        Args:
            last: uptime ends here, and nothing is held back any more.
        """
        with self._ticking:  # a span is never stored as it was before
            batch = self._gather(last)
            if batch.entries or batch.spans:
                self._database.writer.submit(
                    lambda session: store(session, batch), lambda error: self._told(batch, error),
                    instead=lambda error: self._instead(batch, error),
                )  # fmt: skip

    def _gather(self, last: bool) -> Batch:
        with self._lock:
            self._take_idle(everything=last)
            stamp, uptime = self._clock.time_ns(), self._uptime
            spans = [*self._ended, *([uptime.span(stamp, closed=last)] if uptime is not None else [])]
            states = {name: state for name, state in self._states.items() if state}
            batch = Batch(tuple(self._pending), tuple(self._idle), tuple(spans), states)
            self._pending, self._idle, self._ended = [], [], []
            self._states.update({name: {} for name in states})  # known from now on
            if last:
                self._uptime = None
        return batch

    def _take_idle(self, *, everything: bool = False) -> None:
        uptime = self._uptime
        if uptime is None:
            return
        uptime.advance(self._clock.monotonic_ns())
        idle_ns, cost = uptime.take_idle(everything=everything)
        stamp = self._clock.time_ns()
        if idle_ns or cost:
            entry = idle_entry(uptime.id, uptime.price_id, self._taken, stamp, idle_ns, cost)
            self._idle.append(entry)
            self._observe(entry)
        self._taken = stamp

    # ---- what cannot be stored -----------------------------------------------------------------------------------

    def _instead(self, batch: Batch, error: Exception) -> Write | None:
        """What to store in a batch's place, in the same transaction with its spans: for the writer's thread."""
        whole = healed(batch, self._storable)
        idle = len(whole.idle) - len(batch.idle)
        bare = len(set(batch.entries) - set(whole.entries)) - idle
        if not bare and not idle:
            return None  # no entry is to blame
        self._count(bare, error, KEPT)
        self._count(idle, error, IDLE)
        return lambda session: store(session, whole)

    def _storable(self, batch: Batch) -> bool:
        """Whether the database takes a batch; it is tried, and undone."""
        try:
            with named_failures(), Session(self._database.engine) as session:
                store(session, batch)
                session.rollback()
        except Exception as error:
            return passing(error)
        return True

    def _told(self, batch: Batch, error: Exception | None) -> None:
        """A batch that is given up was not booked: its time is idle from now on, and its spans are stored again."""
        if error is None or passing(error):
            return
        with self._lock:
            if self._uptime is None:
                log.error("the last batch of the ledger could not be stored: %s", cause(error))
                return
            for entry in (*batch.entries, *batch.idle):
                self._uptime.unbook(entry.compute_ns, entry.cost)
            self._ended[:0] = [span for span in batch.spans if span.id != self._uptime.id]
        self._count(len(batch.entries), error, IDLE)

    def _count(self, count: int, error: Exception, kept: str) -> None:
        if not count:
            return
        self.unstored += count
        what = "An entry" if count == 1 else f"{count} entries"
        said = f"{what} of the ledger could not be stored ({cause(error).rstrip('.')}): {kept}."
        log.error(said)
        if not isinstance(error, TooManyWaitError):  # what is told would have to wait as well
            self._tell(said)
