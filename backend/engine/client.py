"""The web process' end of the engine: starts it, watches over it, and turns its messages into calls.

`EngineClient` is what everything above may rely on; it says nothing of where the engine runs. `LocalEngine` keeps one
as a child process and brings it back with back-off when it dies.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from backend.engine.config import EngineConfig
from backend.engine.messages import (
    REALTIME,
    Abort,
    Embed,
    Embedded,
    Failed,
    Finished,
    Generate,
    LoadFailed,
    Logprob,
    Ping,
    Ready,
    SetSwitches,
    Shutdown,
    Stats,
    StepOutput,
    SwitchesApplied,
)
from backend.engine.switches import Switches

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
BACKOFF = (0.2, 1.0, 2.0, 5.0, 10.0, 30.0)
HEALTHY_AFTER = 60.0
"""Seconds an engine must have lived for its next death to count as the first."""


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token."""

    token_id: int
    logprob: Logprob | None


Event = Token | Finished | Failed
Sink = Callable[[Event], None]


class EngineUnavailableError(Exception):
    """The engine died or cannot start; says which and what happens next."""


class EngineRequestError(ValueError):
    """The engine refused a request; the message says what is wrong with it."""


@dataclass(frozen=True)
class EngineState:
    """`phase` is "starting", "ready", "restarting", "failed" or "stopped"; `detail` explains it to a person."""

    phase: str
    detail: str = ""
    restarts: int = 0
    since: float = 0.0


class EngineClient(Protocol):
    """What the rooms above need of an engine, wherever it runs."""

    @property
    def state(self) -> EngineState:
        """Where the engine is in its life."""
        ...

    @property
    def info(self) -> dict[str, Any]:
        """What the engine said of itself when it became ready; empty before."""
        ...

    @property
    def switches(self) -> Switches:
        """The switches asked for last."""
        ...

    @property
    def applied(self) -> SwitchesApplied | None:
        """The switches in force, the variant serving and what is being loaded."""
        ...

    @property
    def stats(self) -> Stats | None:
        """The latest statistics seen, without asking."""
        ...

    def generate(self, request: Generate, sink: Sink) -> None:
        """Submit a request; `sink` is called from the client's thread with each event, the last one an ending."""
        ...

    def abort(self, request_id: str) -> None:
        """End a request; its sink gets Finished(reason="abort") unless it ended already."""
        ...

    def embed(self, inputs: list[list[int]], path: str = REALTIME) -> Future[tuple[np.ndarray, float]]:
        """Embed token sequences; resolves to float32 [inputs, dimension] and the model's seconds."""
        ...

    def set_switches(self, switches: Switches) -> None:
        """Ask for switches."""
        ...

    def ping(self, timeout: float) -> Stats:
        """Statistics from within a turn of the engine's loop.

        Raises:
            EngineUnavailableError: no turn within `timeout` seconds.
        """
        ...

    def wait_ready(self, timeout: float) -> bool:
        """Wait until the engine is ready; False if it is not within `timeout` seconds or has failed."""
        ...


class LocalEngine:
    """An engine in a child process on this machine."""

    def __init__(self, config: EngineConfig, on_stats: Callable[[Stats], None] | None = None) -> None:
        self._config, self._on_stats = config, on_stats
        self._switches = config.switches
        self._lock = threading.RLock()
        self._send_lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._state = EngineState("stopped")
        self._info: dict[str, Any] = {}
        self._applied: SwitchesApplied | None = None
        self._stats: Stats | None = None
        self._sinks: dict[str, Sink] = {}
        self._futures: dict[str, Future[tuple[np.ndarray, float]]] = {}
        self._pings: dict[int, Future[Stats]] = {}
        self._waiting: list[Any] = []  # messages for an engine that is not ready yet
        self._connection: Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._numbers = itertools.count(1)

    # ---- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the process and its supervision; returns at once."""
        self._stopping.clear()
        self._set_state("starting", "The model is being loaded.")
        self._thread = threading.Thread(target=self._supervise, name="engine-client", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Ask the process to end, and end it if it does not."""
        self._stopping.set()
        with contextlib.suppress(OSError), self._send_lock:
            if self._connection is not None:
                self._connection.send(Shutdown())
        process = self._process
        if process is not None:
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._thread is not None:
            self._thread.join(timeout)
        self._set_state("stopped")

    def restart(self) -> None:
        """End the process; supervision brings it back. For an engine that failed to load, try again."""
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
        elif self._thread is None or not self._thread.is_alive():
            self.start()

    def _spawn(self) -> Connection:
        ours, theirs = socket.socketpair()
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
        environment["OMP_NUM_THREADS"] = str(self._config.thread_count())
        environment.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "backend.engine.core", "--fd", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        connection = Connection(ours.detach())
        connection.send(replace(self._config, switches=self._switches))
        return connection

    def _supervise(self) -> None:
        deaths, restarts = 0, 0
        while not self._stopping.is_set():
            born = time.monotonic()
            try:
                connection = self._spawn()
            except OSError as error:
                self._set_state("failed", f"The engine process could not be started: {error}", restarts)
                self._drop_everything("The engine process could not be started.")
                return
            failed = self._read(connection, restarts)
            connection.close()
            assert self._process is not None
            code = self._process.wait()
            if failed is not None:
                self._set_state("failed", failed, restarts)
                self._drop_everything(failed)
                return
            if self._stopping.is_set():
                self._drop_everything("The engine was stopped.")
                return
            deaths = 1 if time.monotonic() - born > HEALTHY_AFTER else deaths + 1
            restarts += 1
            delay = BACKOFF[min(deaths, len(BACKOFF)) - 1]
            how = f"signal {-code}" if code < 0 else f"exit status {code}"
            log.warning("the engine died (%s); starting it again in %.1f s", how, delay)
            self._set_state("restarting", f"The engine stopped ({how}) and is being started again.", restarts)
            self._drop_everything("The engine stopped while it was answering. It is being started again; please retry.")
            self._stopping.wait(delay)

    def _read(self, connection: Connection, restarts: int) -> str | None:
        """Dispatch messages until the pipe closes; returns why the engine could not load, if that is why."""
        while True:
            try:
                message = connection.recv()
            except (EOFError, OSError):
                with self._lock:
                    self._connection = None
                return None
            if isinstance(message, LoadFailed):
                return message.error
            if isinstance(message, Ready):
                with self._lock:
                    self._info = message.info
                    self._connection = connection
                    waiting, self._waiting = self._waiting, []
                self._set_state("ready", "", restarts)
                self._send(SetSwitches(self._switches))
                for queued in waiting:
                    self._send(queued)
                continue
            try:
                self._dispatch(message)
            except Exception:  # a consumer's fault must not stop everybody's stream
                log.exception("a consumer of %s failed", type(message).__name__)

    def _dispatch(self, message: Any) -> None:
        if isinstance(message, StepOutput):
            for request_id, token, logprob in message.tokens:
                sink = self._sinks.get(request_id)
                if sink is not None:
                    sink(Token(token, logprob))
        elif isinstance(message, Finished):
            sink = self._sinks.pop(message.request_id, None)
            if sink is not None:
                sink(message)
        elif isinstance(message, Failed):
            sink = self._sinks.pop(message.request_id, None)
            if sink is not None:
                sink(message)
            future = self._futures.pop(message.request_id, None)
            if future is not None:
                future.set_exception(EngineRequestError(message.error))
        elif isinstance(message, Embedded):
            future = self._futures.pop(message.request_id, None)
            if future is not None:
                vectors = np.frombuffer(message.vectors, dtype=np.float32).reshape(-1, message.dimension)
                future.set_result((vectors, message.compute_seconds))
        elif isinstance(message, Stats):
            self._stats = message
            if self._on_stats is not None:
                self._on_stats(message)
            ping = self._pings.pop(message.nonce, None)
            if ping is not None:
                ping.set_result(message)
        elif isinstance(message, SwitchesApplied):
            with self._changed:
                self._applied = message
                if message.error:
                    self._switches = message.switches
                self._changed.notify_all()

    def _drop_everything(self, why: str) -> None:
        with self._lock:
            sinks, self._sinks = self._sinks, {}
            futures, self._futures = self._futures, {}
            pings, self._pings = self._pings, {}
            self._waiting = []
            self._connection = None
        for request_id, sink in sinks.items():
            with contextlib.suppress(Exception):
                sink(Failed(request_id, why, "unavailable"))
        pending: list[Future[Any]] = [*futures.values(), *pings.values()]
        for future in pending:
            with contextlib.suppress(Exception):
                future.set_exception(EngineUnavailableError(why))

    def _set_state(self, phase: str, detail: str = "", restarts: int | None = None) -> None:
        with self._changed:
            count = self._state.restarts if restarts is None else restarts
            self._state = EngineState(phase, detail, count, time.monotonic())
            self._changed.notify_all()

    def _send(self, message: Any) -> bool:
        """Send now, or keep for an engine that is on its way; False where none is."""
        with self._lock:
            connection = self._connection
            if connection is None:
                if self._state.phase in ("starting", "restarting"):
                    self._waiting.append(message)
                    return True
                return False
        # A dying engine cannot be sent to; the reader sees that too and tells every waiting request.
        with self._send_lock, contextlib.suppress(OSError):
            connection.send(message)
        return True

    # ---- what the rooms above call ---------------------------------------------------------------------------------

    @property
    def state(self) -> EngineState:
        """See `EngineClient.state`."""
        return self._state

    @property
    def info(self) -> dict[str, Any]:
        """See `EngineClient.info`."""
        return self._info

    @property
    def switches(self) -> Switches:
        """See `EngineClient.switches`."""
        return self._switches

    @property
    def applied(self) -> SwitchesApplied | None:
        """See `EngineClient.applied`."""
        return self._applied

    @property
    def stats(self) -> Stats | None:
        """See `EngineClient.stats`."""
        return self._stats

    def generate(self, request: Generate, sink: Sink) -> None:
        """See `EngineClient.generate`."""
        with self._lock:
            self._sinks[request.request_id] = sink
        if not self._send(request):
            self._sinks.pop(request.request_id, None)
            sink(Failed(request.request_id, self._state.detail or "The engine is not running.", "unavailable"))

    def abort(self, request_id: str) -> None:
        """See `EngineClient.abort`."""
        self._send(Abort(request_id))

    def embed(self, inputs: list[list[int]], path: str = REALTIME) -> Future[tuple[np.ndarray, float]]:
        """See `EngineClient.embed`."""
        future: Future[tuple[np.ndarray, float]] = Future()
        request_id = f"embed-{next(self._numbers)}"
        with self._lock:
            self._futures[request_id] = future
        if not self._send(Embed(request_id, inputs, path)):
            self._futures.pop(request_id, None)
            future.set_exception(EngineUnavailableError(self._state.detail or "The engine is not running."))
        return future

    def set_switches(self, switches: Switches) -> None:
        """See `EngineClient.set_switches`."""
        with self._lock:
            self._switches = switches
            ready = self._connection is not None
        if ready:  # otherwise they are sent when it is
            self._send(SetSwitches(switches))

    def ping(self, timeout: float) -> Stats:
        """See `EngineClient.ping`."""
        if self._state.phase != "ready":
            raise EngineUnavailableError(self._state.detail or f"The engine is {self._state.phase}.")
        nonce = next(self._numbers)
        future: Future[Stats] = Future()
        with self._lock:
            self._pings[nonce] = future
        self._send(Ping(nonce))
        try:
            return future.result(timeout)
        except TimeoutError:
            self._pings.pop(nonce, None)
            raise EngineUnavailableError(f"The engine's loop has not turned for {timeout:g} s.") from None

    def wait_ready(self, timeout: float) -> bool:
        """See `EngineClient.wait_ready`."""
        with self._changed:
            self._changed.wait_for(lambda: self._state.phase in ("ready", "failed", "stopped"), timeout)
            return self._state.phase == "ready"
