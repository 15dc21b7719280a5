"""What a machine's time is worth and who has paid for it: the identity that the ledger keeps.

**Sum of costs + idle = uptime × price, to the nano-dollar.**

- *Uptime* is the time that this server ran, on a clock that does not run while the machine sleeps. It is counted in
  *spans*: one for each run of the server and each price in force meanwhile. What a span is *due* is its whole uptime in
  nanoseconds × nano-dollars an hour ÷ 3,600 s, rounded down once for the span, however often it is looked at.
- An *entry* is booked when its request ends, at the price in force then: compute time × price, rounded down.
- *Idle* is what is left: uptime less the compute that was booked, and what is due less the costs that were booked. It
  takes up every rounding, what an engine computed for nobody (its start, requests that died with it), and the
  difference where a request was computed at one price and booked at another.
- What the engine is known to have computed for requests that have not ended yet is *in flight*: it is not idle, and
  held back. Where more is booked than was known to be in flight, no idle time is booked until the clock catches up.

So at any moment due = booked + held back, and once nothing is in flight and the ledger is closed, due = booked. A span
is stored with every batch of entries and at each heartbeat, in the same transaction: after a kill the last heartbeat is
where the uptime ends, and what had not been booked until then is idle. While the server was down is no uptime.

Arithmetic only: no clock of its own, no database.
"""

from __future__ import annotations

from dataclasses import dataclass

from backend.metering.entry import nanoseconds, price_of
from backend.store.ids import new_id


@dataclass(frozen=True, slots=True)
class Span:
    """Time that a server ran under one price, as it is stored; stamps in nanoseconds since the epoch."""

    id: str
    price_id: int
    started_ns: int
    heartbeat_ns: int
    uptime_ns: int
    due: int
    booked_ns: int
    booked: int
    closed: bool = False


class Uptime:
    """The span in force.

    Args:
        price_id: of the price.
        per_hour: nano-dollars.
        now: monotonic nanoseconds.
        stamp: nanoseconds since the epoch.
    """

    def __init__(self, price_id: int, per_hour: int, now: int, stamp: int) -> None:
        self._held = (0, 0)  # nanoseconds and nano-dollars of former spans that are not booked yet
        self._in_flight, self._busy, self._grew = 0, 0, False
        self._begin(price_id, per_hour, now, stamp)

    def _begin(self, price_id: int, per_hour: int, now: int, stamp: int) -> None:
        self.id, self.price_id, self._per_hour = new_id(), price_id, per_hour
        self._since, self._started = now, stamp
        self._uptime = self._booked_ns = self._booked = 0

    @property
    def _due(self) -> int:
        return price_of(self._uptime, self._per_hour)

    @property
    def left(self) -> tuple[int, int]:
        """Nanoseconds and nano-dollars that nobody was charged for yet; below 0 where more was booked than passed."""
        return self._held[0] + self._uptime - self._booked_ns, self._held[1] + self._due - self._booked

    def advance(self, now: int) -> None:
        """Let the clock be at `now` (monotonic nanoseconds)."""
        self._uptime = max(now - self._since, self._uptime)

    def computed(self, busy_seconds: float) -> None:
        """The engine has been busy for so long since it started; less than before means that another one has."""
        busy = nanoseconds(busy_seconds)
        if busy < self._busy:
            self._busy = self._in_flight = 0  # what died with the former is nobody's
        self._grew = self._grew or busy > self._busy
        self._in_flight += busy - self._busy
        self._busy = busy

    def book(self, compute_ns: int, cost: int) -> None:
        """An entry."""
        self._booked_ns += compute_ns
        self._booked += cost
        self._in_flight -= compute_ns

    def unbook(self, compute_ns: int, cost: int) -> None:
        """An entry that could not be stored: its time is idle."""
        self._booked_ns -= compute_ns
        self._booked -= cost

    def take_idle(self, *, everything: bool = False) -> tuple[int, int]:
        """Book what is idle by now, and give it: nanoseconds and nano-dollars.

        Args:
            everything: nothing is held back; what was booked too much is given as less than nothing.
        """
        ns, cost = self.left
        if not self._grew:
            self._in_flight = 0  # an engine that computes nothing has nothing in flight
        self._grew = False
        if not everything:
            held = max(self._in_flight, 0)
            ns = max(ns - held, 0)
            cost = max(min(cost, price_of(ns, self._per_hour)) if held else cost, 0)
        self._booked_ns += ns
        self._booked += cost
        return ns, cost

    def change_price(self, price_id: int, per_hour: int, now: int, stamp: int) -> Span:
        """End the span, whose idle time has been taken, and begin another; gives the one that ended."""
        ended = self.span(stamp, closed=True)
        self._held = self.left
        self._begin(price_id, per_hour, now, stamp)
        return ended

    def span(self, stamp: int, *, closed: bool = False) -> Span:
        """As it is to be stored at `stamp` (nanoseconds since the epoch)."""
        return Span(
            self.id, self.price_id, self._started, stamp, self._uptime, self._due, self._booked_ns, self._booked, closed
        )
