"""What the reader and those who give it work tell each other: that there is work, and that a read is not wanted now.

A cancellation belongs to one read of a document, never to the document: queued again, it is read again.
"""

from __future__ import annotations

import threading


class CancelledError(Exception):
    """A read that is not wanted any more: cancelled, deleted, replaced by a newer upload, or the server stops."""


class CancelToken:
    """One read of a document, as seen by who may end it."""

    def __init__(self, document_id: str) -> None:
        self.document_id = document_id
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """End this read at its next `check`."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether it was ended."""
        return self._cancelled.is_set()

    def check(self) -> None:
        """Called by the reader at every step.

        Raises:
            CancelledError: this read was ended.
        """
        if self._cancelled.is_set():
            raise CancelledError


class ReaderSignals:
    """Wakes the one reader, and ends what it reads. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._work = threading.Event()
        self._stopping = threading.Event()
        self._current: CancelToken | None = None

    def wake(self) -> None:
        """Say that there is work."""
        self._work.set()

    def wait(self, timeout: float | None = None) -> None:
        """Wait for work. What is queued while the caller looks for it ends the next wait at once."""
        self._work.wait(timeout)
        self._work.clear()

    def pause(self, seconds: float) -> None:
        """Wait whether there is work or not; a stop ends it."""
        self._stopping.wait(seconds)

    def begin(self, document_id: str) -> CancelToken:
        """A token for a read that begins."""
        with self._lock:
            self._current = CancelToken(document_id)
            if self._stopping.is_set():
                self._current.cancel()
            return self._current

    def end(self) -> None:
        """The read that began has ended."""
        with self._lock:
            self._current = None

    def cancel(self, document_id: str) -> None:
        """End the read of a document if it is going on; change its row first, or it is read once more."""
        with self._lock:
            if self._current is not None and self._current.document_id == document_id:
                self._current.cancel()

    def stop(self) -> None:
        """End everything: the server is stopping."""
        self._stopping.set()
        with self._lock:
            if self._current is not None:
                self._current.cancel()
        self._work.set()

    @property
    def stopping(self) -> bool:
        """Whether the server is stopping."""
        return self._stopping.is_set()
