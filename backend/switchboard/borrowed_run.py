"""Measurements that borrow the switches: one at a time on a server, in the background, whoever begins it.

However one ends, the switches of before come back, and why it ended early is said alike. Knows not what is measured.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

from backend.engine.protocol import EngineClient, Phase
from backend.engine.switches import Switches
from backend.errors import ConflictError, TenfoldError
from backend.switchboard.service import BorrowOverError, Switchboard

log = logging.getLogger(__name__)


class CancelledError(Exception):
    """Somebody wants the measurement to end."""


class BorrowedRun:
    """One measurement while it goes on.

    Attributes:
        what: is being measured, for who wants to measure something else meanwhile.
    """

    def __init__(self, what: str, switchboard: Switchboard) -> None:
        self.what = what
        self._switchboard = switchboard
        self._cancelled = threading.Event()

    def borrow(self) -> AbstractContextManager[Callable[[Switches], None]]:
        """See `Switchboard.borrow`."""
        return self._switchboard.borrow()

    def cancel(self) -> None:
        """Have it end soon; returns at once, also where it has ended."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether it is to end."""
        return self._cancelled.is_set()

    def check(self) -> None:
        """Go on only while it is not to end; raises CancelledError."""
        self.pause(0)

    def pause(self, seconds: float) -> None:
        """Wait; raises CancelledError once it is to end."""
        if self._cancelled.wait(seconds):
            raise CancelledError


class BorrowedRuns:
    """The measurements of one server.

    Args:
        engine: that is measured; it has to serve when one begins.
        switchboard: lends it other switches.
    """

    def __init__(self, engine: Callable[[], EngineClient], switchboard: Switchboard) -> None:
        self._engine, self._switchboard = engine, switchboard
        self._lock = threading.Lock()
        self._run: BorrowedRun | None = None
        self._thread: threading.Thread | None = None

    def begin(
        self, what: str, work: Callable[[BorrowedRun], None], *, begun: Callable[[], None],
        ended: Callable[[str], None],
    ) -> BorrowedRun:  # fmt: skip
        """Measure something in a thread of its own; returns at once.

        Args:
            what: is measured.
            work: measures it, under switches that it borrows from the run that it is given.
            begun: called before anybody else may ask what goes on.
            ended: called with why it ended early, or an empty text, before another may begin.

        Raises:
            ConflictError: something is being measured already, or the engine is not ready.
        """
        with self._lock:
            if self._run is not None:
                raise ConflictError(f"{self._run.what} is being measured; wait for that, or cancel it.")
            if self._switchboard.borrowed:
                raise ConflictError("The switches are lent to another measurement; wait for that, or cancel it.")
            if self._engine().state.phase is not Phase.READY:
                raise ConflictError("The engine is not ready; measure once it serves.")
            self._run = run = BorrowedRun(what, self._switchboard)
            begun()
            self._thread = threading.Thread(target=self._work, args=(run, work, ended), name="measuring", daemon=True)
            self._thread.start()
        return run

    def close(self, timeout: float = 10.0) -> None:
        """Cancel what goes on, and wait until the switches of before were asked for."""
        with self._lock:
            run, thread = self._run, self._thread
        if run is not None and thread is not None:
            run.cancel()
            thread.join(timeout)

    def _work(self, run: BorrowedRun, work: Callable[[BorrowedRun], None], ended: Callable[[str], None]) -> None:
        error = ""
        try:
            work(run)
        except CancelledError:
            error = "It was cancelled."
        except BorrowOverError:
            error = "It ended since somebody changed the switches meanwhile."
        except TenfoldError as problem:
            error = problem.message
        except Exception as problem:
            log.exception("%s could not be measured", run.what)
            error = f"It could not be measured: {problem}"
        with self._lock:
            try:
                ended(error)
            finally:
                self._run = None
