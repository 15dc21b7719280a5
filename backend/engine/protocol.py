"""What everything above the engine may rely on. It says nothing of where the engine runs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np

from backend.engine.about import EngineInfo
from backend.engine.messages import REALTIME, Failed, Finished, Generate, Logprob, Stats, SwitchesApplied
from backend.engine.switches import Switches
from backend.errors import ModelFailedError, TenfoldError, UnavailableError


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token."""

    token_id: int
    logprob: Logprob | None


Event = Token | Finished | Failed
Sink = Callable[[Event], None]


class EngineRequestError(ValueError):
    """The engine refused a request; the message says what is wrong with it."""


class EmbeddingFailedError(TenfoldError):
    """An embedding failed in the engine.

    Attributes:
        seconds: the model's time on it until then.
    """

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class Phase(StrEnum):
    """Where an engine is in its life."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"
    """The model can never be loaded as it is: nothing brings this engine back but a person."""
    STOPPED = "stopped"


@dataclass(frozen=True)
class EngineState:
    """`detail` explains the phase to a person; `since` is a time.monotonic, `restarts` counts from the start."""

    phase: Phase
    detail: str = ""
    restarts: int = 0
    since: float = 0.0

    def error(self) -> UnavailableError:
        """Why nothing can be answered now, and whether that will pass."""
        if self.phase is Phase.FAILED:
            return ModelFailedError(
                f"The model cannot be loaded: {self.detail.rstrip('.')}. Mend that, then start the engine again from "
                "the console, or restart the server."
            )
        return UnavailableError(self.detail or f"The engine is {self.phase}; retry in a few seconds.")


class EngineClient(Protocol):
    """What the rooms above need of an engine, wherever it runs."""

    @property
    def state(self) -> EngineState:
        """Where the engine is in its life."""
        ...

    @property
    def info(self) -> EngineInfo | None:
        """What is loaded and its limits, as of the last change; None before the engine was ready for the first time."""
        ...

    def known(self) -> EngineInfo:
        """`info` of an engine that has been ready.

        Raises:
            UnavailableError: the model is still being loaded.
            ModelFailedError: it cannot be.
        """
        ...

    @property
    def switches(self) -> Switches:
        """The switches asked for last."""
        ...

    @property
    def in_force(self) -> Switches:
        """The switches that work: an engine that is brought back begins with them."""
        ...

    @property
    def applied(self) -> SwitchesApplied | None:
        """What the engine said last of its switches: those it took, the variant serving and what is being loaded."""
        ...

    @property
    def stats(self) -> Stats | None:
        """The latest statistics seen, without asking."""
        ...

    @property
    def silence(self) -> float:
        """Seconds since anything was heard from the engine's loop; an idle one is asked every few seconds."""
        ...

    @property
    def hung(self) -> bool:
        """Whether it is ready and yet nobody is answered, for longer than any turn may take."""
        ...

    def generate(self, request: Generate, sink: Sink) -> None:
        """Submit a request; `sink` is called from the client's thread with each event, the last one an ending.

        A sink that raises ends its own request: it gets Failed, and nobody else notices.
        """
        ...

    def abort(self, request_id: str) -> None:
        """End a request; its sink gets Finished(reason="abort") unless it ended already. Never blocks."""
        ...

    def embed(self, inputs: list[list[int]], path: str = REALTIME) -> Future[tuple[np.ndarray, float]]:
        """Embed token sequences; resolves to float32 [inputs, dimension] and the model's seconds.

        A caller that leaves cancels the future, and what is not computed yet never is. The future raises
        EngineRequestError where the engine refused the inputs, UnavailableError where it is not there.
        """
        ...

    def set_switches(self, switches: Switches) -> None:
        """Ask for switches. Those that cannot be put in force are given up for `in_force`; `applied` says why."""
        ...

    def ping(self, timeout: float) -> Stats:
        """Statistics from within a turn of the engine's loop.

        Raises:
            UnavailableError: the engine is not ready, or no turn ended within `timeout` seconds.
        """
        ...

    def wait_ready(self, timeout: float) -> bool:
        """Wait until the engine is ready; False if it is not within `timeout` seconds or has failed."""
        ...
