"""The engine as a child process: keeps one alive, and turns its messages into calls.

One thread reads what the engine says and calls the sinks. Whatever is sent goes through the pipe's queue, so that no
caller ever waits for the engine.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np

from backend.engine.child import Child, Death
from backend.engine.config import EngineConfig
from backend.engine.messages import (
    REALTIME,
    Abort,
    Embed,
    Embedded,
    EngineInfo,
    Failed,
    Finished,
    Generate,
    InfoChanged,
    LoadFailed,
    Ping,
    Ready,
    SetSwitches,
    Shutdown,
    Stats,
    StepOutput,
    SwitchesApplied,
)
from backend.engine.protocol import EngineRequestError, EngineState, Event, Phase, Sink, Token
from backend.engine.switches import Switches
from backend.engine.switching import Switching
from backend.engine.watchdog import PATIENCE
from backend.errors import ModelFailedError, UnavailableError

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "backend.engine.process")
BACKOFF = (0.2, 1.0, 2.0, 5.0, 10.0)
HEALTHY_AFTER = 60.0
"""Seconds an engine must have lived for its next death to count as the first."""
HANG_LIMIT = 120.0
"""Seconds without a word from the engine's loop and without work that make it hung; see `watchdog.py`."""

Embedding = tuple[np.ndarray, float]


class LocalEngine:
    """An engine in a child process on this machine, brought back when it dies or hangs; an `EngineClient`.

    Args:
        config: what to start it with; its switches are those that were in force last.
        on_stats: called with all statistics, from the reading thread.
        on_applied: called with the switches in force whenever the engine says so, from the reading thread.
        hang_limit: seconds; see HANG_LIMIT.
        command: the process to start.
    """

    def __init__(
        self,
        config: EngineConfig,
        on_stats: Callable[[Stats], None] | None = None,
        on_applied: Callable[[Switches], None] | None = None,
        hang_limit: float = HANG_LIMIT,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._config, self._on_stats, self._on_applied = config, on_stats, on_applied
        self._hang_limit, self._command = hang_limit, command
        self._changed = threading.Condition(threading.RLock())
        self._state = EngineState(Phase.STOPPED)
        self._info: EngineInfo | None = None
        self._switching = Switching(config.switches)
        self._stats: Stats | None = None
        self._heard = time.monotonic()
        self._sinks: dict[str, Sink] = {}
        self._futures: dict[str, Future[Embedding]] = {}
        self._pings: dict[int, Future[Stats]] = {}
        self._waiting: list[Any] = []  # messages for an engine that is not ready yet
        self._child: Child | None = None
        self._stopping = threading.Event()  # of the supervision that runs now
        self._at_once = False  # do not wait before the next start
        self._thread: threading.Thread | None = None
        self._numbers = itertools.count(1)

    # ---- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the process and its supervision; returns at once."""
        with self._changed:
            self._stopping, self._at_once = threading.Event(), False
            self._set_state(Phase.STARTING, "The model is being loaded.")
            self._thread = threading.Thread(
                target=self._supervise, args=(self._stopping,), name="engine-client", daemon=True
            )
            self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Ask the process to end, and end it if it does not within `timeout` seconds; what still waits is failed."""
        deadline = time.monotonic() + timeout
        with self._changed:
            self._stopping.set()
            child, ready, thread = self._child, self._state.phase is Phase.READY, self._thread
            self._changed.notify_all()
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
        with self._changed:
            if self._state.phase in (Phase.FAILED, Phase.STOPPED):
                self.start()
                return
            self._at_once = True
            if self._child is not None:
                self._child.process.kill()  # one that hangs heeds nothing less
            self._changed.notify_all()

    def _supervise(self, stopping: threading.Event) -> None:
        deaths, restarts = 0, self._state.restarts
        while not stopping.is_set():
            born = time.monotonic()
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
            deaths = 1 if time.monotonic() - born > HEALTHY_AFTER else deaths + 1
            restarts += 1
            delay = BACKOFF[min(deaths, len(BACKOFF)) - 1]
            log.warning("the engine died (%s); starting it again in %.1f s", death.how, delay)
            self._switching.died()
            self._fall(
                Phase.RESTARTING,
                f"The engine stopped ({death.how}) and is being started again.",
                "The engine stopped while it was answering. It is being started again; please retry.",
                restarts,
            )
            with self._changed:
                self._changed.wait_for(lambda: stopping.is_set() or self._at_once, delay)
                self._at_once = False

    def _live(self, stopping: threading.Event, restarts: int) -> Death:
        """Start the process and serve it to its end."""
        with self._changed:
            if stopping.is_set():
                return Death("it was stopped")
            try:
                child = Child(
                    self._command, replace(self._config, switches=self._switching.in_force), self._hang_limit
                )
            except OSError as error:
                return Death(f"it could not be started: {error}")
            self._child = child
        ready, load_error = False, None
        try:
            while True:
                message = child.pipe.receive()
                self._heard = time.monotonic()
                if isinstance(message, LoadFailed):
                    load_error = message.error
                    break
                if isinstance(message, Ready):
                    ready = True
                    self._welcome(message, child, restarts)
                else:
                    self._dispatch(message)
        except (EOFError, OSError):
            pass  # it is gone
        finally:
            with self._changed:
                if self._child is child:
                    self._child = None
            how = child.end()
        return Death(how, ready, load_error)

    def _welcome(self, message: Ready, child: Child, restarts: int) -> None:
        """The engine is ready: send what waited, in order, before anything else can be sent."""
        with self._changed:
            self._info = message.info
            child.pipe.send(SetSwitches(self._switching.tell()))
            for queued in self._waiting:
                child.pipe.send(queued)
            self._waiting = []
            self._set_state(Phase.READY, "", restarts)
        child.watch()

    def _fall(self, phase: Phase, detail: str, why: str = "", restarts: int | None = None) -> None:
        """Enter a phase without an engine and fail everything that was asked of it."""
        with self._changed:
            self._set_state(phase, detail, restarts)
            error = UnavailableError(why) if why else self._state.error()
            sinks, self._sinks = self._sinks, {}
            pending: list[Future[Any]] = [*self._futures.values(), *self._pings.values()]
            self._futures, self._pings, self._waiting = {}, {}, []
        for request_id, sink in sinks.items():
            self._deliver(request_id, sink, _failure(request_id, error))
        for future in pending:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)

    def _set_state(self, phase: Phase, detail: str = "", restarts: int | None = None) -> None:
        with self._changed:
            count = self._state.restarts if restarts is None else restarts
            self._state = EngineState(phase, detail, count, time.monotonic())
            self._changed.notify_all()

    # ---- messages ------------------------------------------------------------------------------------------------

    def _dispatch(self, message: Any) -> None:
        if isinstance(message, StepOutput):
            for request_id, token, logprob in message.tokens:
                sink = self._sinks.get(request_id)
                if sink is not None:
                    self._deliver(request_id, sink, Token(token, logprob))
        elif isinstance(message, Finished | Failed):
            sink = self._sinks.pop(message.request_id, None)
            if sink is not None:
                self._deliver(message.request_id, sink, message)
            future = self._futures.pop(message.request_id, None)
            if future is not None and isinstance(message, Failed) and future.set_running_or_notify_cancel():
                future.set_exception(EngineRequestError(message.error))
        elif isinstance(message, Embedded):
            future = self._futures.pop(message.request_id, None)
            if future is not None and future.set_running_or_notify_cancel():
                vectors = np.frombuffer(message.vectors, dtype=np.float32).reshape(-1, message.dimension)
                future.set_result((vectors, message.compute_seconds))
        elif isinstance(message, Stats):
            self._stats = message
            ping = self._pings.pop(message.nonce, None)
            if ping is not None:
                ping.set_result(message)
            _tell(self._on_stats, message)
        elif isinstance(message, SwitchesApplied):
            with self._changed:
                in_force = self._switching.take(message)
                self._changed.notify_all()
            _tell(self._on_applied, in_force)
        elif isinstance(message, InfoChanged):
            self._info = message.info

    def _deliver(self, request_id: str, sink: Sink, event: Event) -> None:
        """Call a sink. One that raises ends its own request, and nobody else's."""
        try:
            sink(event)
        except Exception as error:
            log.exception("a consumer of request %s failed", request_id)
            self._sinks.pop(request_id, None)
            if isinstance(event, Token):
                self.abort(request_id)
            with contextlib.suppress(Exception):
                sink(Failed(request_id, f"The answer could not be taken in: {type(error).__name__}: {error}"))

    def _send(self, message: Any) -> bool:
        """Queue for the engine, or keep for one that is on its way; False where none is. Call with the lock held."""
        if self._state.phase is Phase.READY:
            if self._child is not None:  # else it just died, and `_fall` is about to say so to everybody
                self._child.pipe.send(message)
            return True
        if self._state.phase in (Phase.FAILED, Phase.STOPPED) or self._stopping.is_set():
            return False
        self._waiting.append(message)
        return True

    # ---- what the rooms above call ---------------------------------------------------------------------------------

    @property
    def state(self) -> EngineState:
        """See `EngineClient.state`."""
        return self._state

    @property
    def info(self) -> EngineInfo | None:
        """See `EngineClient.info`."""
        return self._info

    def known(self) -> EngineInfo:
        """See `EngineClient.known`."""
        info = self._info
        if info is None:
            raise self._state.error()
        return info

    @property
    def switches(self) -> Switches:
        """See `EngineClient.switches`."""
        return self._switching.asked

    @property
    def in_force(self) -> Switches:
        """See `EngineClient.in_force`."""
        return self._switching.in_force

    @property
    def applied(self) -> SwitchesApplied | None:
        """See `EngineClient.applied`."""
        return self._switching.applied

    @property
    def stats(self) -> Stats | None:
        """See `EngineClient.stats`."""
        return self._stats

    @property
    def silence(self) -> float:
        """See `EngineClient.silence`."""
        return time.monotonic() - self._heard

    @property
    def hung(self) -> bool:
        """See `EngineClient.hung`."""
        child, silence = self._child, self.silence
        if child is None or self._state.phase is not Phase.READY or silence < self._hang_limit:
            return False
        return not child.pipe.receiving or silence > PATIENCE * self._hang_limit

    def generate(self, request: Generate, sink: Sink) -> None:
        """See `EngineClient.generate`."""
        refusal: Failed | None = None
        with self._changed:
            if request.request_id in self._sinks:
                refusal = Failed(request.request_id, f"Request id {request.request_id} is already in use.", "invalid")
            else:
                taken = False
                self._sinks[request.request_id] = sink
                try:
                    taken = self._send(request)
                finally:
                    if not taken:
                        self._sinks.pop(request.request_id, None)
                if not taken:
                    refusal = _failure(request.request_id, self._state.error())
        if refusal is not None:
            sink(refusal)

    def abort(self, request_id: str) -> None:
        """See `EngineClient.abort`."""
        with self._changed:
            self._send(Abort(request_id))

    def embed(self, inputs: list[list[int]], path: str = REALTIME) -> Future[Embedding]:
        """See `EngineClient.embed`."""
        future: Future[Embedding] = Future()
        request_id = f"embed-{next(self._numbers)}"

        def left(asked: Future[Embedding]) -> None:
            if asked.cancelled() and self._futures.pop(request_id, None) is not None:
                self.abort(request_id)

        with self._changed:
            taken = False
            self._futures[request_id] = future
            try:
                taken = self._send(Embed(request_id, inputs, path))
            finally:
                if not taken:
                    self._futures.pop(request_id, None)
            error = self._state.error()
        if taken:
            future.add_done_callback(left)
        else:
            future.set_exception(error)
        return future

    def set_switches(self, switches: Switches) -> None:
        """See `EngineClient.set_switches`."""
        with self._changed:
            self._switching.ask(switches)
            if self._state.phase is Phase.READY and self._child is not None:  # otherwise they are sent when it is
                self._send(SetSwitches(self._switching.tell()))

    def ping(self, timeout: float) -> Stats:
        """See `EngineClient.ping`."""
        nonce = next(self._numbers)
        future: Future[Stats] = Future()
        with self._changed:
            if self._state.phase is not Phase.READY:
                raise self._state.error()
            self._pings[nonce] = future
            self._send(Ping(nonce))
        try:
            return future.result(timeout)
        except TimeoutError:
            self._pings.pop(nonce, None)
            raise UnavailableError(f"The engine's loop has not turned for {timeout:g} s.") from None

    def wait_ready(self, timeout: float) -> bool:
        """See `EngineClient.wait_ready`."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._state.phase in (Phase.READY, Phase.FAILED, Phase.STOPPED), timeout
            )
            return self._state.phase is Phase.READY


def _failure(request_id: str, error: UnavailableError) -> Failed:
    kind = "load_failed" if isinstance(error, ModelFailedError) else "unavailable"
    return Failed(request_id, error.message, kind)


def _tell(callback: Callable[[Any], None] | None, what: Any) -> None:
    """Call who follows the engine; what goes wrong there is not the engine's."""
    if callback is not None:
        try:
            callback(what)
        except Exception:
            log.exception("whoever follows the engine failed")
