"""The engine's counters over the last minutes, for live charts."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from dataclasses import dataclass

from backend.engine.messages import Stats

KEEP_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Sample:
    """The engine's state at one moment (seconds since the epoch)."""

    time: float
    stats: Stats


class StatsSeries:
    """Collects statistics as the engine sends them: often while it works, seldom while it is idle."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=20_000)
        self._lock = threading.Lock()

    def add(self, stats: Stats) -> None:
        """Keep one."""
        with self._lock:
            self._samples.append(Sample(time.time(), stats))
            while self._samples and self._samples[0].time < time.time() - KEEP_SECONDS:
                self._samples.popleft()

    def window(self, seconds: float) -> list[Sample]:
        """Samples of the last `seconds`, oldest first."""
        since = time.time() - seconds
        with self._lock:
            return [sample for sample in self._samples if sample.time >= since]

    def throughput(self, seconds: float, bucket: float) -> list[tuple[float, float]]:
        """(time, output tokens per second) for each bucket of the window; idle buckets are 0."""
        samples = self.window(seconds + bucket)
        now = time.time()
        start = now - seconds
        count = int(seconds / bucket)
        sums = [0.0] * count
        for before, after in itertools.pairwise(samples):
            made = after.stats.output_tokens - before.stats.output_tokens
            if made <= 0:  # a restarted engine counts from zero
                continue
            at = int((after.time - start) / bucket)
            if 0 <= at < count:
                sums[at] += made
        return [(start + (i + 0.5) * bucket, total / bucket) for i, total in enumerate(sums)]
