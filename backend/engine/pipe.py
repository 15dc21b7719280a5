"""One end of the connection between the web process and the engine; the same at both ends.

`send` never blocks: messages wait in a queue, and one thread writes them in that order. So neither process can come to
stand in a write while the other stands in one too. What the messages mean is not known here.
"""

from __future__ import annotations

import pickle
import threading
import time
from collections import deque
from multiprocessing.connection import Connection
from typing import Any


class Pipe:
    """Any number of threads may send; one receives.

    Args:
        connection: the open connection, which belongs to this pipe from now on.
        name: of the writing thread.
    """

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._changed = threading.Condition()
        self._outbox: deque[bytes] = deque()
        self._closing = self._broken = False
        self._backlog = 0
        self._received = 0
        self._receiving = False
        self._writer = threading.Thread(target=self._write, name=name, daemon=True)
        self._writer.start()

    @property
    def backlog(self) -> int:
        """Bytes that were sent and that the other end has not taken yet."""
        return self._backlog

    @property
    def received(self) -> int:
        """Messages received so far."""
        return self._received

    @property
    def receiving(self) -> bool:
        """Whether `receive` is waiting for a message, rather than the receiver busy with one."""
        return self._receiving

    def send(self, message: Any) -> None:
        """Queue a message and return at once; nothing happens where the other end is gone.

        Raises:
            Exception: the message cannot be pickled; nothing was sent.
        """
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        with self._changed:
            if self._closing or self._broken:
                return
            self._outbox.append(data)
            self._backlog += len(data)
            self._changed.notify_all()

    def poll(self, timeout: float | None) -> bool:
        """Whether `receive` would find something within `timeout` seconds (None: however long it takes).

        Raises:
            OSError: the other end is gone.
        """
        return self._connection.poll(timeout)

    def receive(self) -> Any:
        """Wait for the next message.

        Raises:
            EOFError: the other end is gone.
            OSError: the same.
        """
        self._receiving = True
        try:
            return self._connection.recv()
        finally:
            self._received += 1
            self._receiving = False

    def close(self, timeout: float = 1.0) -> None:
        """Write what is queued, as far as `timeout` seconds allow, and close."""
        deadline = time.monotonic() + timeout
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._writer.join(max(0.0, deadline - time.monotonic()))
        if not self._writer.is_alive():  # otherwise it stands in a write: its descriptor must not be used anew
            self._connection.close()

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._outbox or self._closing)
                if not self._outbox:
                    return
                data = self._outbox.popleft()
            try:
                self._connection.send_bytes(data)
            except OSError:  # the other end is gone, which the receiver learns as well
                with self._changed:
                    self._broken, self._backlog = True, 0
                    self._outbox.clear()
                    self._changed.notify_all()
                return
            with self._changed:
                self._backlog -= len(data)
                self._changed.notify_all()
