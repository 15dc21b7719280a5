"""What this machine's processors and GPUs do, read when a scrape asks; what cannot be read here has no points."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator

import psutil

from backend.metering.devices import Gpus, GpuState
from backend.metering.metric_family import Point

LEAST_BETWEEN = 1.0
"""Seconds between two looks from which a share is worked out; two scrapers within them are told the same."""


class Processors:
    """Processor time of the web process and of the engine's.

    Args:
        engine_pid: of the engine's process; None while there is none.
        clock: seconds that only grow.
    """

    def __init__(self, engine_pid: Callable[[], int | None], clock: Callable[[], float] = time.monotonic) -> None:
        self._engine_pid, self._clock, self._lock = engine_pid, clock, threading.Lock()
        self._cores = os.cpu_count() or 1
        self._seen: tuple[dict[tuple[str, int], float], float] | None = None
        self._shares: dict[str, float] = {}

    def _seconds(self) -> dict[tuple[str, int], float]:
        found = {}
        for name, pid in (("web", os.getpid()), ("engine", self._engine_pid())):
            if pid is None:
                continue
            try:
                times = psutil.Process(pid).cpu_times()
            except psutil.Error:  # it has just ended
                continue
            found[name, pid] = times.user + times.system
        return found

    def seconds(self) -> Iterator[Point]:
        """Seconds of each process since it began."""
        for (name, _), seconds in self._seconds().items():
            yield (name,), seconds

    def shares(self) -> Iterator[Point]:
        """Share of all cores that each process took since the look before."""
        with self._lock:
            now, clock = self._seconds(), self._clock()
            before, at = self._seen or (now, clock)
            if self._seen is None or clock - at >= LEAST_BETWEEN:
                self._seen = now, clock
                whole = (clock - at) * self._cores
                self._shares = {
                    name: (seconds - before[name, pid]) / whole
                    for (name, pid), seconds in now.items()
                    if (name, pid) in before and whole
                }
            shares = dict(self._shares)
        yield from (((name,), share) for name, share in shares.items())


GPU_VALUES: dict[str, Callable[[GpuState], float | None]] = {
    "hw_gpu_utilization_ratio": lambda gpu: gpu.utilization,
    "hw_gpu_memory_usage_bytes": lambda gpu: gpu.memory_used,
    "hw_gpu_memory_limit_bytes": lambda gpu: gpu.memory,
    "hw_gpu_power_draw_watts": lambda gpu: gpu.watts,
    "hw_gpu_energy_consumed_joules_total": lambda gpu: gpu.joules,
    "hw_gpu_temperature_celsius": lambda gpu: gpu.celsius,
}


def gpu_points(gpus: Gpus, value: Callable[[GpuState], float | None]) -> Iterator[Point]:
    """One value of every GPU that tells it."""
    for gpu in gpus.states():
        number = value(gpu)
        if number is not None:
            yield (gpu.uuid, gpu.name, "NVIDIA", str(gpu.index)), number
