"""Which GPUs this machine has and what they do, by NVIDIA's management library, where that is there."""

from __future__ import annotations

import importlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

log = logging.getLogger(__name__)

FRESH = 0.5
"""Seconds for which what was read is given again: a scrape asks for several figures at once."""


def gpu_name() -> str | None:
    """The name of the first GPU, as its driver gives it; None where none can be seen from here."""
    try:
        nvml = importlib.import_module("pynvml")  # of the package nvidia-ml-py
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        log.debug("no GPU can be seen: %s", error)
        return None
    try:
        return _text(nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByIndex(0)))
    except nvml.NVMLError as error:
        log.debug("no GPU can be seen: %s", error)
        return None
    finally:
        nvml.nvmlShutdown()


@dataclass(frozen=True, slots=True)
class GpuState:
    """One GPU now; None for what its driver does not tell. Memory in bytes, utilization 0 to 1."""

    index: int
    uuid: str
    name: str
    utilization: float | None = None
    memory_used: float | None = None
    memory: float | None = None
    watts: float | None = None
    joules: float | None = None
    celsius: float | None = None


class Gpus:
    """What all GPUs do. The library is opened at the first look and stays open; without it there are none.

    Args:
        load: gives the library.
    """

    def __init__(self, load: Callable[[], Any] = lambda: importlib.import_module("pynvml")) -> None:
        self._load, self._lock = load, threading.Lock()
        self._nvml: Any = None
        self._absent = False
        self._read: tuple[float, list[GpuState]] = (-FRESH, [])

    def states(self) -> list[GpuState]:
        """Every GPU, as its driver numbers them; none where none can be seen."""
        with self._lock:
            if self._absent:
                return []
            if time.monotonic() - self._read[0] >= FRESH:
                self._read = time.monotonic(), self._states()
            return self._read[1]

    def _states(self) -> list[GpuState]:
        if self._nvml is None:
            try:
                nvml = self._load()
                nvml.nvmlInit()
            except Exception as error:  # no library, no driver, or one that does not fit the other
                log.debug("no GPU can be seen: %s", error)
                self._absent = True
                return []
            self._nvml = nvml
        nvml = self._nvml
        try:
            return [self._state(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
        except nvml.NVMLError as error:
            log.debug("the GPUs cannot be read: %s", error)
            return []

    @staticmethod
    def _state(nvml: Any, index: int) -> GpuState:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)

        def ask(call: Callable[[], float]) -> float | None:
            try:
                return call()
            except nvml.NVMLError:  # not every GPU tells everything
                return None

        return GpuState(
            index,
            _text(nvml.nvmlDeviceGetUUID(handle)),
            _text(nvml.nvmlDeviceGetName(handle)),
            utilization=ask(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100),
            memory_used=ask(lambda: float(nvml.nvmlDeviceGetMemoryInfo(handle).used)),
            memory=ask(lambda: float(nvml.nvmlDeviceGetMemoryInfo(handle).total)),
            watts=ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
            joules=ask(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000),
            celsius=ask(lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))),
        )


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
