"""What was asked of an engine and is not answered yet, and whom each answer goes to."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np

from backend.engine.messages import Embedded, Failed, Finished, Stats, StepOutput
from backend.engine.protocol import EmbeddingFailedError, EngineRequestError, Event, Sink, Token
from backend.errors import ModelFailedError, UnavailableError

log = logging.getLogger(__name__)

Embedding = tuple[np.ndarray, float]


class Outstanding:
    """Sinks of generations, futures of embeddings and of pings.

    Entries are made by whoever sends the request, under a lock of its own; messages come from one thread.

    Args:
        abort: ends a request whose consumer failed.
    """

    def __init__(self, abort: Callable[[str], None]) -> None:
        self._abort = abort
        self.sinks: dict[str, Sink] = {}
        self.embeddings: dict[str, Future[Embedding]] = {}
        self.pings: dict[int, Future[Stats]] = {}

    def receive(self, message: Any) -> None:
        """Give a message of the engine to those that it is for."""
        if isinstance(message, StepOutput):
            for request_id, token, logprob in message.tokens:
                sink = self.sinks.get(request_id)
                if sink is not None:
                    self._deliver(request_id, sink, Token(token, logprob))
        elif isinstance(message, Finished | Failed):
            sink = self.sinks.pop(message.request_id, None)
            if sink is not None:
                self._deliver(message.request_id, sink, message)
            future = self.embeddings.pop(message.request_id, None)
            if future is not None and isinstance(message, Failed) and future.set_running_or_notify_cancel():
                refused = message.kind == "invalid"
                future.set_exception(
                    EngineRequestError(message.error)
                    if refused
                    else EmbeddingFailedError(message.error, message.embedding_seconds)
                )
        elif isinstance(message, Embedded):
            future = self.embeddings.pop(message.request_id, None)
            if future is not None and future.set_running_or_notify_cancel():
                vectors = np.frombuffer(message.vectors, dtype=np.float32).reshape(-1, message.dimension)
                future.set_result((vectors, message.compute_seconds))
        elif isinstance(message, Stats):
            ping = self.pings.pop(message.nonce, None)
            if ping is not None:
                ping.set_result(message)

    def _deliver(self, request_id: str, sink: Sink, event: Event) -> None:
        """Call a sink. One that raises ends its own request, and nobody else's."""
        try:
            sink(event)
        except Exception as error:
            log.exception("a consumer of request %s failed", request_id)
            self.sinks.pop(request_id, None)
            if isinstance(event, Token):
                self._abort(request_id)
            with contextlib.suppress(Exception):
                sink(Failed(request_id, f"The answer could not be taken in: {type(error).__name__}: {error}"))

    def take_all(self) -> Outstanding:
        """Everything that waits, apart; here nothing waits any more."""
        taken = Outstanding(self._abort)
        taken.sinks, self.sinks = self.sinks, {}
        taken.embeddings, self.embeddings = self.embeddings, {}
        taken.pings, self.pings = self.pings, {}
        return taken

    def fail(self, error: UnavailableError) -> None:
        """End everything that waits."""
        for request_id, sink in list(self.sinks.items()):
            self._deliver(request_id, sink, failure(request_id, error))
        pending: list[Future[Any]] = [*self.embeddings.values(), *self.pings.values()]
        for future in pending:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)


def failure(request_id: str, error: UnavailableError) -> Failed:
    """A request's ending where there is no engine to answer it."""
    kind = "load_failed" if isinstance(error, ModelFailedError) else "unavailable"
    return Failed(request_id, error.message, kind)
