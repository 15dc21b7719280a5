"""Has entries stored, many to a commit, together with the idle time and the span of uptime that they belong to.

It keeps the identity of `uptime`, and knows nothing of what an entry is of.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Protocol

from backend.engine.switches import Switches
from backend.metering.booking import Batch, idle_entry, store
from backend.metering.entry import Entry, fingerprint
from backend.metering.prices import MachinePrice
from backend.metering.uptime import Span, Uptime
from backend.store.database import Database
from backend.store.writer import passing

log = logging.getLogger(__name__)


class Clock(Protocol):
    """Time for stamps (nanoseconds since the epoch) and for durations (monotonic nanoseconds)."""

    def time_ns(self) -> int: ...  # noqa: D102
    def monotonic_ns(self) -> int: ...  # noqa: D102


class Bookkeeper:
    """Keeps the books of one server. Thread-safe; waits for no disk.

    Args:
        database: where they are kept, by its writer.
        observe: is told of idle time.
        clock: what time it is.
    """

    def __init__(self, database: Database, observe: Callable[[Entry], None], clock: Clock) -> None:
        self._database, self._observe, self._clock = database, observe, clock
        self._lock = threading.Lock()
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
        if batch.entries or batch.spans:
            self._submit(batch)

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

    def _submit(self, batch: Batch) -> None:
        def tell(error: Exception | None) -> None:
            if error is None or passing(error):
                return
            if len(batch.entries) == 1:
                log.error("an entry of the ledger could not be stored: %s", batch.entries[0].request_id)
                with self._lock:
                    if self._uptime is not None:
                        self._uptime.unbook(batch.entries[0].compute_ns, batch.entries[0].cost)
                return
            for entry in batch.entries:  # one of them is to blame
                self._submit(Batch((entry,)))
            if batch.entries:
                self._submit(Batch((), batch.idle, batch.spans, batch.states))

        self._database.writer.submit(lambda session: store(session, batch), tell)
