"""An engine in a child process, as calls: what is asked of it, whom its answers go to, what was heard of it last.

Whatever is sent goes through the pipe's queue, so that no caller ever waits for the engine. `supervision.py` keeps the
process alive.
"""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from backend.engine.about import EngineInfo
from backend.engine.config import EngineConfig
from backend.engine.messages import (
    REALTIME,
    Abort,
    Embed,
    Failed,
    Generate,
    InfoChanged,
    Ping,
    SetSwitches,
    Stats,
    SwitchesApplied,
)
from backend.engine.outstanding import Embedding, Outstanding, failure
from backend.engine.protocol import EngineState, Phase, Sink
from backend.engine.serving.switching import Switching
from backend.engine.supervision import Supervision
from backend.engine.switches import Switches
from backend.errors import UnavailableError

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "backend.engine.process")
HANG_LIMIT = 120.0
"""Seconds without a word from the engine's loop and without work that make it hung; see `watchdog.py`."""


class LocalEngine:
    """An engine in a child process on this machine, brought back when it dies or hangs; an `EngineClient`.

    Args:
        config: what to start it with; its switches are those that were in force last.
        on_stats: called with all statistics, from the reading thread.
        on_applied: called with the switches in force whenever the engine says so, from the reading thread.
        on_said: called with each state that the engine enters and each answer to a change of switches; never waits.
        hang_limit: seconds; see HANG_LIMIT.
        command: the process to start.
    """

    def __init__(
        self,
        config: EngineConfig,
        on_stats: Callable[[Stats], None] | None = None,
        on_applied: Callable[[Switches], None] | None = None,
        on_said: Callable[[EngineState | SwitchesApplied], None] | None = None,
        hang_limit: float = HANG_LIMIT,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._on_stats, self._on_applied, self._on_said = on_stats, on_applied, on_said
        self._switching = Switching(config.switches)
        self._outstanding = Outstanding(self.abort)
        self._life = Supervision(
            config, command, hang_limit, self._switching, self._outstanding, self._take_in,
            on_state=lambda state: _tell(self._on_said, state),
        )  # fmt: skip
        self._stats: Stats | None = None
        self._numbers = itertools.count(1)

    def start(self) -> None:
        """Start the process and its supervision; returns at once."""
        self._life.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Ask the process to end, and end it if it does not within `timeout` seconds; what still waits is failed."""
        self._life.stop(timeout)

    def restart(self) -> None:
        """End the process, to be brought back at once; an engine that failed or was stopped is started."""
        self._life.restart()

    def _take_in(self, message: Any) -> None:
        """A message of the engine, on the reading thread."""
        if isinstance(message, SwitchesApplied):
            with self._life.changed:
                in_force = self._switching.take(message)
                self._life.changed.notify_all()
            _tell(self._on_applied, in_force)
            _tell(self._on_said, message)
        elif isinstance(message, InfoChanged):
            self._life.info = message.info
        else:
            if isinstance(message, Stats):
                self._stats = message
            self._outstanding.receive(message)
            if isinstance(message, Stats):
                _tell(self._on_stats, message)

    # ---- what is known -------------------------------------------------------------------------------------------

    @property
    def state(self) -> EngineState:
        """See `EngineClient.state`."""
        return self._life.state

    @property
    def info(self) -> EngineInfo | None:
        """See `EngineClient.info`."""
        return self._life.info

    def known(self) -> EngineInfo:
        """See `EngineClient.known`."""
        info = self._life.info
        if info is None:
            raise self._life.state.error()
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
        return self._life.silence

    @property
    def hung(self) -> bool:
        """See `EngineClient.hung`."""
        return self._life.hung

    # ---- what is asked -------------------------------------------------------------------------------------------

    def generate(self, request: Generate, sink: Sink) -> None:
        """See `EngineClient.generate`."""
        refusal: Failed | None = None
        request_id = request.request_id
        with self._life.changed:
            sinks = self._outstanding.sinks
            if request_id in sinks:
                refusal = Failed(request_id, f"Request id {request_id} is already in use.", "invalid")
            else:
                taken = False
                sinks[request_id] = sink
                try:
                    taken = self._life.send(request)
                finally:
                    if not taken:
                        sinks.pop(request_id, None)
                if not taken:
                    refusal = failure(request_id, self._life.state.error())
        if refusal is not None:
            sink(refusal)

    def abort(self, request_id: str) -> None:
        """See `EngineClient.abort`."""
        with self._life.changed:
            self._life.send(Abort(request_id))

    def embed(self, inputs: list[list[int]], path: str = REALTIME) -> Future[Embedding]:
        """See `EngineClient.embed`."""
        future: Future[Embedding] = Future()
        request_id = f"embed-{next(self._numbers)}"

        def left(asked: Future[Embedding]) -> None:
            if asked.cancelled() and self._outstanding.embeddings.pop(request_id, None) is not None:
                self.abort(request_id)

        with self._life.changed:
            taken = False
            waiting = self._outstanding.embeddings
            waiting[request_id] = future
            try:
                taken = self._life.send(Embed(request_id, inputs, path))
            finally:
                if not taken:
                    waiting.pop(request_id, None)
            error = self._life.state.error()
        if taken:
            future.add_done_callback(left)
        else:
            future.set_exception(error)
        return future

    def set_switches(self, switches: Switches) -> None:
        """See `EngineClient.set_switches`."""
        with self._life.changed:
            self._switching.ask(switches)
            if self._life.connected:  # otherwise they are sent when it is
                self._life.send(SetSwitches(self._switching.tell()))

    def ping(self, timeout: float) -> Stats:
        """See `EngineClient.ping`."""
        nonce = next(self._numbers)
        future: Future[Stats] = Future()
        with self._life.changed:
            if self._life.state.phase is not Phase.READY:
                raise self._life.state.error()
            self._outstanding.pings[nonce] = future
            self._life.send(Ping(nonce))
        try:
            return future.result(timeout)
        except TimeoutError:
            self._outstanding.pings.pop(nonce, None)
            raise UnavailableError(f"The engine's loop has not turned for {timeout:g} s.") from None

    def wait_ready(self, timeout: float) -> bool:
        """See `EngineClient.wait_ready`."""
        life = self._life
        with life.changed:
            life.changed.wait_for(lambda: life.state.phase in (Phase.READY, Phase.FAILED, Phase.STOPPED), timeout)
            return life.state.phase is Phase.READY


def _tell(callback: Callable[[Any], None] | None, what: Any) -> None:
    """Call who follows the engine; what goes wrong there is not the engine's."""
    if callback is not None:
        try:
            callback(what)
        except Exception:
            log.exception("whoever follows the engine failed")
