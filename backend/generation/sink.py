"""Takes the engine's events of one request to its readers, its row and the answer cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from backend.engine.messages import Failed, Finished, Usage
from backend.engine.protocol import Event, Token
from backend.errors import InvalidInputError, ModelFailedError, TenfoldError, UnavailableError
from backend.generation.stream import Generation, Piece
from backend.metering.entry import Asked
from backend.metering.ledger import Ledger
from backend.models.text import StreamDecoder

ERRORS: Mapping[str, type[TenfoldError]] = {
    "invalid": InvalidInputError,
    "unavailable": UnavailableError,
    "load_failed": ModelFailedError,
}
"""What the engine's kinds of failure are to a caller; any other is a fault of ours."""

Keep = Callable[[list[int], str, float], None]
"""Keeps an answer to give it again: its tokens, why it ended, and the engine's seconds."""


def fail(
    generation: Generation, asked: Asked, ledger: Ledger, error: TenfoldError, *, prompt_tokens: int,
    usage: Usage | None = None,
) -> None:  # fmt: skip
    """End a generation with an error, which is an entry and a count like any other ending."""
    ledger.record_failure(
        asked, prompt_tokens=prompt_tokens, latency=generation.latency, error=error.message, usage=usage
    )
    generation.fail(error)


class Sink:
    """Called from the thread that reads the engine: it never blocks.

    Args:
        generation: who is written into.
        decoder: makes text of tokens.
        asked: the request as the ledger names it.
        ledger: who is told what it cost.
        answering: called with the first token.
        abort: tells the engine that no more is wanted.
        keep: where the answer may be given again.
    """

    def __init__(
        self,
        generation: Generation,
        decoder: StreamDecoder,
        asked: Asked,
        ledger: Ledger,
        *,
        answering: Callable[[], None],
        abort: Callable[[], None],
        keep: Keep | None,
    ) -> None:
        self._generation, self._decoder, self._asked, self._ledger = generation, decoder, asked, ledger
        self._answering, self._abort, self._keep = answering, abort, keep
        self._tokens: list[int] = []

    def __call__(self, event: Event) -> None:
        """Take one event; the last is an ending."""
        if isinstance(event, Token):
            self._token(event)
        elif isinstance(event, Finished):
            self._finished(event)
        else:
            self._failed(event)

    def _token(self, event: Token) -> None:
        if self._decoder.stopped:
            return
        if not self._tokens:
            self._answering()
        self._tokens.append(event.token_id)
        self._generation.push(Piece(self._decoder.push(event.token_id), event.token_id, event.logprob))
        if self._decoder.stopped:
            self._abort()

    def _finished(self, event: Finished) -> None:
        rest = self._decoder.finish()
        if rest:
            self._generation.push(Piece(rest, -1, None))
        reason = "stop" if self._decoder.stopped else event.reason
        account = self._ledger.record(self._asked, event.usage, outcome=reason)
        self._generation.finish(reason, account, event.prompt_logprobs)
        if self._keep is not None and reason in ("stop", "length"):
            self._keep(self._tokens, reason, event.usage.compute_seconds)

    def _failed(self, event: Failed) -> None:
        error = ERRORS.get(event.kind, TenfoldError)(event.error)
        prompt_tokens = len(self._generation.prompt_ids)
        fail(self._generation, self._asked, self._ledger, error, prompt_tokens=prompt_tokens, usage=event.usage)
