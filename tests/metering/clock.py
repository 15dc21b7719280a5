"""A clock that moves when a test says so."""

from __future__ import annotations


class FakeClock:
    """Both clocks of a ledger."""

    def __init__(self, epoch: float = 1_790_000_000.0) -> None:
        self.now, self.passed = int(epoch * 1e9), 0

    def sleep(self, seconds: float) -> None:
        step = int(seconds * 1e9)
        self.now += step
        self.passed += step

    def time_ns(self) -> int:
        return self.now

    def monotonic_ns(self) -> int:
        return self.passed

