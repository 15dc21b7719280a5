"""Open websockets by what let them in, so that they can be ended when that stops counting."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class OpenSockets:
    """Who is connected: each socket has an event that is set when one of its credentials ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[asyncio.Event, tuple[frozenset[str], asyncio.AbstractEventLoop]] = {}

    @contextmanager
    def opened(self, *credentials: str) -> Iterator[asyncio.Event]:
        """Count a socket while it is open; called in its event loop."""
        ended = asyncio.Event()
        with self._lock:
            self._open[ended] = frozenset(credentials), asyncio.get_running_loop()
        try:
            yield ended
        finally:
            with self._lock:
                del self._open[ended]

    def end(self, credential: str) -> None:
        """End every socket that a key or sign-in has opened; may be called from any thread."""
        with self._lock:
            for ended, (credentials, loop) in self._open.items():
                if credential in credentials:
                    loop.call_soon_threadsafe(ended.set)
