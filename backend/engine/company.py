"""Whether an idle engine waits for company before it begins: a batch of several costs little more than one request."""

from __future__ import annotations

SMOOTHING = 0.3
"""What the latest gap counts for."""


class Company:
    """How close together requests come.

    Waits only while they have lately come closer together than the window is long: a lone user never pays for company
    that does not come.
    """

    def __init__(self) -> None:
        self._gap: float | None = None  # smoothed seconds between arrivals
        self._last = 0.0
        self._since: float | None = None  # when the wait that goes on began

    def arrived(self, now: float) -> None:
        """Take in an arrival."""
        if self._last:
            gap = min(now - self._last, 1.0)
            self._gap = gap if self._gap is None else self._gap + SMOOTHING * (gap - self._gap)
        self._last = now

    def wait(self, now: float, window: float, *, alone: bool) -> float:
        """Seconds that are left to wait; `alone` says that nothing runs and there is room for more."""
        if not window or not alone or self._gap is None or self._gap > window:
            self._since = None
            return 0.0
        if self._since is None:
            self._since = now
        return max(0.0, window - (now - self._since))

    def begin(self) -> None:
        """The wait is over."""
        self._since = None
