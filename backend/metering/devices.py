"""Which GPU this machine has, by NVIDIA's management library, where that is there: for choosing a price."""

from __future__ import annotations

import importlib
import logging

log = logging.getLogger(__name__)


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
        name = nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByIndex(0))
        return name.decode() if isinstance(name, bytes) else str(name)
    except nvml.NVMLError as error:
        log.debug("no GPU can be seen: %s", error)
        return None
    finally:
        nvml.nvmlShutdown()
