"""Tells an engine that hangs from one that works long, and ends the one that hangs.

A turn of the engine's loop may take minutes: a long prompt in one piece, a large model, a machine that others keep
busy. Such an engine uses the processor; one in a deadlock does not.
"""

from __future__ import annotations

import logging
import subprocess
import threading

import psutil

from backend.engine.messages import Ping
from backend.engine.pipe import Pipe

log = logging.getLogger(__name__)

PING_INTERVAL = 5.0
"""Seconds between two pings, which an idle engine answers at once."""
AT_WORK = 0.01
"""Share of one processor's time above which a silent engine counts as working."""
PATIENCE = 10
"""An engine that is silent and works is ended after this many times the limit: a loop without an end works as well."""


def watch(process: subprocess.Popen[bytes], pipe: Pipe, limit: float, ended: threading.Event) -> bool:
    """Ping an engine whose loop turns, until `ended`; returns True after killing it because it hung.

    Time is counted in ticks, and only while our own end waits for a message: a web process that was itself stopped or
    busy takes no engine for hung.

    Args:
        process: the engine.
        pipe: to the engine.
        limit: seconds without a message and without work that make it hung.
        ended: set when there is nothing to watch any more.
    """
    tick = min(PING_INTERVAL, limit / 4)
    silent = still = 0.0
    seen, worked = pipe.received, 0.0
    pipe.send(Ping(0))
    while not ended.wait(tick):
        try:
            times = psutil.Process(process.pid).cpu_times()
        except psutil.Error:  # it died, which the reader sees
            return False
        used, worked = times.user + times.system - worked, times.user + times.system
        if pipe.received != seen or not pipe.receiving:
            seen, silent, still = pipe.received, 0.0, 0.0
        else:
            silent += tick
            still = still + tick if used < AT_WORK * tick else 0.0
        if still >= limit or silent >= PATIENCE * limit:
            log.error("the engine has been silent for %.0f s, %.0f of them without working; ending it", silent, still)
            process.kill()
            return True
        pipe.send(Ping(0))
    return False
