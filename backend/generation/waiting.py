"""How many requests may wait for their first token: beyond it, an honest "later" is worth more than a place in line."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Mapping

from backend.errors import OverloadedError

SEEN = 64
"""Latest departures from which the pace is known."""
LONGEST = 60
"""Most seconds that anybody is told to wait."""


class WaitingLine:
    """The requests that wait, by path.

    Args:
        most: how many may, for each path.

    Attributes:
        refused: how many found no place.
    """

    def __init__(self, most: Mapping[str, int]) -> None:
        self._most = dict(most)
        self.refused = 0
        self._waiting: dict[str, set[str]] = {path: set() for path in most}
        self._left: deque[float] = deque(maxlen=SEEN)
        self._lock = threading.Lock()

    def enter(self, request_id: str, path: str) -> None:
        """Take a place.

        Raises:
            OverloadedError: there is none; says when to come again.
        """
        with self._lock:
            waiting = self._waiting[path]
            if len(waiting) >= self._most[path]:
                self.refused += 1
                raise OverloadedError(
                    f"{len(waiting)} requests wait already, and no more are taken. Try again in a moment.",
                    retry_after=self._pause(len(waiting)),
                )
            waiting.add(request_id)

    def leave(self, request_id: str, path: str) -> None:
        """Give the place back; it may be given back before."""
        with self._lock:
            if request_id in self._waiting[path]:
                self._waiting[path].discard(request_id)
                self._left.append(time.monotonic())

    def _pause(self, waiting: int) -> int:
        """Seconds until about half of those who wait have left, at the latest pace."""
        if len(self._left) < 2:
            return 5
        each = (time.monotonic() - self._left[0]) / len(self._left)
        return max(1, min(LONGEST, math.ceil(each * waiting / 2)))
