"""Keeps one engine process alive: starts it, brings it back when it dies or hangs, and knows in which phase it is."""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from backend.engine.about import EngineInfo
from backend.engine.child import Child, Death
from backend.engine.config import EngineConfig
from backend.engine.messages import LoadFailed, Ready, SetSwitches, Shutdown
from backend.engine.outstanding import Outstanding
from backend.engine.protocol import EngineState, Phase
from backend.engine.serving.switching import Switching
from backend.engine.watchdog import PATIENCE
from backend.errors import UnavailableError

log = logging.getLogger(__name__)

BACKOFF = (0.2, 1.0, 2.0, 5.0, 10.0)
HEALTHY_AFTER = 60.0
"""Seconds an engine must have served for its next death to count as the first."""


class Supervision:
    """One thread reads what the engine says, for as long as it lives, and starts the next one.

    Args:
        config: what to start it with, but for the switches.
        command: the process to start.
        hang_limit: seconds without a word and without work that make it hung.
        switching: which switches it begins with, and which it is told.
        outstanding: what is failed when it dies.
        on_message: called with what it says once it is ready, from the reading thread.
    """

    def __init__(
        self,
        config: EngineConfig,
        command: Sequence[str],
        hang_limit: float,
        switching: Switching,
        outstanding: Outstanding,
        on_message: Callable[[Any], None],
        on_state: Callable[[EngineState], None] = lambda state: None,
    ) -> None:
        self._config, self._command, self._hang_limit = config, command, hang_limit
        self._switching, self._outstanding, self._on_message = switching, outstanding, on_message
        self._on_state = on_state
        self.changed = threading.Condition(threading.RLock())  # held while something is sent, or changes phase
        self.state = EngineState(Phase.STOPPED)
        self.info: EngineInfo | None = None
        self._heard = time.monotonic()
        self._unsent: list[Any] = []  # messages for an engine that is not ready yet
        self._child: Child | None = None
        self._stopping = threading.Event()  # of the supervision that runs now
        self._at_once = False  # do not wait before the next start
        self._thread: threading.Thread | None = None

    # ---- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the process and its supervision; returns at once."""
        with self.changed:
            self._stopping, self._at_once = threading.Event(), False
            self._set_state(Phase.STARTING, "The model is being loaded.")
            self._thread = threading.Thread(
                target=self._supervise, args=(self._stopping,), name="engine-client", daemon=True
            )
            self._thread.start()

    def stop(self, timeout: float) -> None:
        """Ask the process to end, and end it if it does not within `timeout` seconds; what still waits is failed."""
        deadline = time.monotonic() + timeout
        with self.changed:
            self._stopping.set()
            child, ready, thread = self._child, self.state.phase is Phase.READY, self._thread
            self.changed.notify_all()
        if child is not None:
            if ready:
                child.pipe.send(Shutdown())
            else:
                child.process.terminate()  # it loads, and listens to nobody
            try:
                child.process.wait(timeout)
            except subprocess.TimeoutExpired:
                child.process.kill()
        if thread is not None:
            thread.join(max(0.5, deadline - time.monotonic()))
        self._fall(Phase.STOPPED, "The engine was stopped.")

    def restart(self) -> None:
        """End the process, to be brought back at once; an engine that failed or was stopped is started."""
        with self.changed:
            if self.state.phase in (Phase.FAILED, Phase.STOPPED):
                self.start()
                return
            self._at_once = True
            if self._child is not None:
                self._child.process.kill()  # one that hangs heeds nothing less
            self.changed.notify_all()

    def _supervise(self, stopping: threading.Event) -> None:
        deaths, restarts = 0, self.state.restarts
        while not stopping.is_set():
            try:
                death = self._live(stopping, restarts)
            except Exception as error:
                log.exception("an engine process could not be served")
                death = Death(f"{type(error).__name__}: {error}")
            if stopping.is_set():
                return  # `stop` does the rest
            if death.load_error is not None:
                if self._switching.could_not_load():
                    log.warning("the engine could not load (%s); trying other weights", death.load_error)
                    continue
                self._fall(Phase.FAILED, death.load_error)
                return
            deaths = 1 if death.served > HEALTHY_AFTER else deaths + 1
            restarts += 1
            delay = BACKOFF[min(deaths, len(BACKOFF)) - 1]
            log.warning("the engine died (%s); starting it again in %.1f s", death.how, delay)
            self._switching.died(by_itself=not self._at_once)
            self._fall(
                Phase.RESTARTING,
                f"The engine stopped ({death.how}) and is being started again.",
                "The engine stopped while it was answering. It is being started again; please retry.",
                restarts,
            )
            with self.changed:
                self.changed.wait_for(lambda: stopping.is_set() or self._at_once, delay)
                self._at_once = False

    def _live(self, stopping: threading.Event, restarts: int) -> Death:
        """Start the process and serve it to its end."""
        with self.changed:
            if stopping.is_set():
                return Death("it was stopped")
            try:
                child = Child(
                    self._command, replace(self._config, switches=self._switching.in_force), self._hang_limit
                )
            except OSError as error:
                return Death(f"it could not be started: {error}")
            self._child = child
        ready, load_error = None, None
        try:
            while True:
                message = child.pipe.receive()
                self._heard = time.monotonic()
                if isinstance(message, LoadFailed):
                    load_error = message.error
                    break
                if isinstance(message, Ready):
                    ready = time.monotonic()
                    self._welcome(message, child, restarts)
                else:
                    self._on_message(message)
        except (EOFError, OSError):
            pass  # it is gone
        finally:
            with self.changed:
                if self._child is child:
                    self._child = None
            how = child.end()
        return Death(how, time.monotonic() - ready if ready is not None else 0.0, load_error)

    def _welcome(self, message: Ready, child: Child, restarts: int) -> None:
        """The engine is ready: send what waited, in order, before anything else can be sent."""
        with self.changed:
            self.info = message.info
            child.pipe.send(SetSwitches(self._switching.tell()))
            for queued in self._unsent:
                child.pipe.send(queued)
            self._unsent = []
            self._set_state(Phase.READY, "", restarts)
        child.watch()

    def _fall(self, phase: Phase, detail: str, why: str = "", restarts: int | None = None) -> None:
        """Enter a phase without an engine and fail everything that was asked of it."""
        with self.changed:
            self._set_state(phase, detail, restarts)
            error = UnavailableError(why) if why else self.state.error()
            abandoned, self._unsent = self._outstanding.take_all(), []
        abandoned.fail(error)

    def _set_state(self, phase: Phase, detail: str = "", restarts: int | None = None) -> None:
        with self.changed:
            count = self.state.restarts if restarts is None else restarts
            self.state = EngineState(phase, detail, count, time.monotonic())
            self.changed.notify_all()
            self._on_state(self.state)

    # ---- what its owner asks -------------------------------------------------------------------------------------

    def send(self, message: Any) -> bool:
        """Queue for the engine, or keep for one that is on its way; False where none is. Call with `changed` held."""
        if self.state.phase is Phase.READY:
            if self._child is not None:  # else it just died, and `_fall` is about to say so to everybody
                self._child.pipe.send(message)
            return True
        if self.state.phase in (Phase.FAILED, Phase.STOPPED) or self._stopping.is_set():
            return False
        self._unsent.append(message)
        return True

    @property
    def connected(self) -> bool:
        """Whether there is a ready engine at the other end of the pipe."""
        return self.state.phase is Phase.READY and self._child is not None

    @property
    def silence(self) -> float:
        """Seconds since anything was heard."""
        return time.monotonic() - self._heard

    @property
    def hung(self) -> bool:
        """Whether it is ready and yet silent for longer than any turn may take."""
        child, silence = self._child, self.silence
        if child is None or self.state.phase is not Phase.READY or silence < self._hang_limit:
            return False
        return not child.pipe.receiving or silence > PATIENCE * self._hang_limit
