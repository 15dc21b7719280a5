"""Writes that nobody waits for: done in order by one thread, many to a commit, tried again while the database is away.

Knows nothing of what is written.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from sqlalchemy.exc import DBAPIError, OperationalError
from sqlmodel import Session

from backend.errors import StorageError

log = logging.getLogger(__name__)

MOST_TOGETHER = 256
"""Writes that share a commit."""
MOST_WAITING = 100_000
"""Writes kept while the database is away; beyond it the oldest are given up, and counted."""
PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds before a write is tried again: twice as long each time."""

Write = Callable[[Session], None]


@dataclass(frozen=True, slots=True)
class Order:
    """A write, what to call when it is done (None) or whenever it failed (why), and who knows what to write instead."""

    write: Write
    tell: Callable[[Exception | None], None] | None = None
    instead: Callable[[Exception], Write | None] | None = None


class TooManyWaitError(Exception):
    """The database has been away for so long that a write was given up."""


def passing(error: Exception) -> bool:
    """Whether the fault lies in the database's state (locked, full, gone) rather than in what was to be written."""
    return isinstance(error, StorageError | OperationalError | OSError) or (
        isinstance(error, DBAPIError) and error.connection_invalidated
    )


def cause(error: Exception) -> str:
    """What a person may read of it: without the statement and its values."""
    return str(getattr(error, "orig", None) or error)


class BackgroundWriter:
    """One thread that writes; it begins with the first write.

    Args:
        session: opens a session that commits on a clean end.

    Attributes:
        lost: writes given up: they could never succeed, or too many waited.
    """

    def __init__(self, session: Callable[[], AbstractContextManager[Session]]) -> None:
        self._session = session
        self._waiting: deque[Order] = deque()
        self._changed = threading.Condition()
        self._busy = self._closed = False
        self.lost = 0
        self._give_up = threading.Event()
        self._thread: threading.Thread | None = None

    def submit(
        self, write: Write, tell: Callable[[Exception | None], None] | None = None, *,
        instead: Callable[[Exception], Write | None] | None = None,
    ) -> None:  # fmt: skip
        """Have something written soon.

        Args:
            write: puts rows into the session it is given. May run more than once, so it must build what it adds anew.
            tell: called from the writer's thread with None once it is committed, and with the error of each try that
                failed, its own or that of a write before it; after one that is not `passing` it is not tried again.
            instead: asked with an error that is not `passing`: what to write in its place, before what was submitted
                behind it; None gives it up.
        """
        order = Order(write, tell, instead)
        with self._changed:
            if not self._closed:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._work, name="background-writer", daemon=True)
                    self._thread.start()
                self._waiting.append(order)
                dropped = self._waiting.popleft() if len(self._waiting) > MOST_WAITING else None
                self._changed.notify_all()
                if dropped is not None:
                    self._drop(dropped, TooManyWaitError("Too many writes wait for the database."))
                return
        self._store([order], patient=False)  # the server is stopping: whoever still writes, waits

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until everything submitted so far is stored; False where it is not within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._busy, timeout)

    def close(self, timeout: float = 10.0) -> None:
        """Store what waits, and end the thread; what the database does not take within `timeout` seconds is lost."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is None:
            return
        self._thread.join(timeout)
        if self._thread.is_alive():
            log.error("%d writes could not be stored before the server stopped", len(self._waiting) + 1)
            self._give_up.set()
            self._thread.join(1)

    # ---- the thread ----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                self._busy = True
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST_TOGETHER))]
            self._store(batch)

    def _store(self, orders: list[Order], *, patient: bool = True) -> None:
        """Commit writes together; where one of them is to blame, each by itself."""
        pause = PAUSE
        while True:
            try:
                with self._session() as session:
                    for order in orders:
                        order.write(session)
            except Exception as error:
                if passing(error) and patient and not self._give_up.is_set():
                    log.warning("the database does not take writes (%s); trying again in %.1f s", cause(error), pause)
                    with self._changed:
                        behind = list(self._waiting)
                    for order in [*orders, *behind]:  # those behind know as well that they are not stored
                        self._tell(order, error)
                    self._give_up.wait(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
                    continue
                if len(orders) == 1:
                    other = None if passing(error) else self._other(orders[0], error)
                    if other is not None:
                        orders = [other]
                        continue
                    log.error("a write failed for good: %s", cause(error))
                    self._drop(orders[0], error)
                    return
                for order in orders:
                    self._store([order], patient=patient)
                return
            for order in orders:
                self._tell(order, None)
            return

    @staticmethod
    def _other(order: Order, error: Exception) -> Order | None:
        """What is written in an order's place, once."""
        try:
            write = order.instead(error) if order.instead is not None else None
        except Exception:
            log.exception("nothing could be found to write instead")
            return None
        return None if write is None else Order(write, order.tell)

    def _drop(self, order: Order, error: Exception) -> None:
        self.lost += 1
        self._tell(order, error)

    @staticmethod
    def _tell(order: Order, error: Exception | None) -> None:
        if order.tell is None:
            return
        try:
            order.tell(error)
        except Exception:
            log.exception("what follows a write failed")
