"""How often an address may be wrong about a key before it has to wait."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable

from backend.errors import TooManyAttemptsError

LIMIT = 10
"""Wrong keys that one address may give within WINDOW."""
WINDOW = 300.0
"""Seconds."""
ADDRESSES = 10_000
"""Addresses remembered; the longest silent is forgotten first."""


class Attempts:
    """Counts wrong keys by address, in memory of a fixed size."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()

    def check(self, address: str) -> None:
        """Refuse an address that was wrong too often.

        Raises:
            TooManyAttemptsError: says how long to wait.
        """
        times = self._wrong.get(address)
        now = self._clock()
        while times and times[0] < now - WINDOW:
            times.popleft()
        if times and len(times) >= LIMIT:
            wait = int(times[0] + WINDOW - now) + 1
            raise TooManyAttemptsError(f"Too many wrong keys came from here. Try again in {wait} seconds.")

    def wrong(self, address: str) -> None:
        """Note a wrong key."""
        self._wrong.setdefault(address, deque(maxlen=LIMIT)).append(self._clock())
        self._wrong.move_to_end(address)
        if len(self._wrong) > ADDRESSES:
            self._wrong.popitem(last=False)
