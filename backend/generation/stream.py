"""One answer being written: it belongs to the backend, is followed by any number of readers, and ends exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from backend.engine.messages import Logprob
from backend.errors import TenfoldError
from backend.generation.request import Prepared, TextRequest
from backend.metering.account import Account
from backend.store.citation import Citation
from backend.store.ids import new_id

log = logging.getLogger(__name__)


class Status(StrEnum):
    """Where a generation is in its life."""

    PREPARING = "preparing"
    QUEUED = "queued"
    WRITING = "writing"
    DONE = "done"
    FAILED = "failed"


class CacheKind(StrEnum):
    """How an answer that is given again was found."""

    EXACT = "exact"
    SEMANTIC = "semantic"


@dataclass(frozen=True, slots=True)
class CacheMark:
    """That an answer was given before: to the same prompt, or to a like question, and how like that is (cosine)."""

    kind: CacheKind
    question: str = ""
    similarity: float | None = None

    def as_dict(self) -> dict[str, str]:
        """For messages and API answers."""
        if self.kind is CacheKind.EXACT:
            return {"kind": self.kind.value}
        return {"kind": self.kind.value, "question": self.question, "similarity": f"{self.similarity:.3f}"}


@dataclass(frozen=True, slots=True)
class Piece:
    """A token's worth of stream: the text that became certain with it (may be empty), and its log probability."""

    text: str
    token_id: int
    logprob: Logprob | None


Keep = Callable[["Generation", Callable[[], None]], None]
"""Stores a generation that has ended, without blocking; calls its second argument when that is done or has failed."""


class Generation:
    """One answer. Read it from any thread, or follow it from a coroutine.

    Args:
        request: what was asked for.
        keep: stores what was written; readers learn of the end when it has.
        note: what is done before anything is written.
        before: what it goes on from, where it writes an answer on; the beginning of its text.

    Attributes:
        id: the request's id, with the engine and in the ledger.
        created: seconds since the epoch.
        pieces: what is written so far.
        note: what is being done while nothing is written yet.
        finish_reason: "stop", "length" or "abort", once it has ended without an error.
        error: why it failed.
        account: what it cost.
        cache_mark: that it was given before.
        citations: what it quotes; of an answer to a like question, what that answer quoted.
        left_out: turns of the conversation that did not fit the context.
        prompt_ids: the prompt's tokens.
        prompt_logprobs: their log probabilities where they were asked for, the first None; known at the end.
        cancelled: somebody wants it to end.
    """

    def __init__(
        self, request: TextRequest, keep: Keep | None = None, note: str = "", *, before: str = ""
    ) -> None:
        self.id = request.request_id or new_id()
        self.request = request
        self.created = time.time()
        self.pieces: list[Piece] = []
        self.status = Status.PREPARING
        self.note = note
        self.before = before
        self.finish_reason: str | None = None
        self.error: TenfoldError | None = None
        self.account: Account | None = None
        self.cache_mark: CacheMark | None = None
        self.citations: tuple[Citation, ...] = request.citations
        self.left_out = 0
        self.prompt_ids: list[int] = []
        self.prompt_logprobs: tuple[Logprob | None, ...] = ()
        self.cancelled = False
        self._keep = keep
        self._closing = False
        self._condition = threading.Condition()
        self._listeners: list[Callable[[], None]] = []
        self._callbacks: list[Callable[[Generation], None]] = []

    @property
    def text(self) -> str:
        """Everything written so far."""
        return self.before + "".join(piece.text for piece in list(self.pieces))

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.status in (Status.DONE, Status.FAILED)

    @property
    def latency(self) -> float:
        """Seconds since it was asked for."""
        return time.time() - self.created

    # ---- writing -------------------------------------------------------------------------------------------------

    def begin(self, prepared: Prepared) -> None:
        """It is prepared, and waits for its first token."""
        with self._condition:
            if self._closing:
                return
            self.request, self.left_out = prepared.request, prepared.left_out
            self.citations, self.prompt_ids = prepared.request.citations, prepared.token_ids
            self.status, self.note = Status.QUEUED, ""
            self._wake()

    def mark_cached(self, mark: CacheMark, citations: list[Citation]) -> None:
        """It is given again; what it quotes is what it quoted then."""
        with self._condition:
            self.cache_mark, self.citations = mark, tuple(citations)

    def push(self, piece: Piece) -> None:
        """Append a piece and wake every reader."""
        with self._condition:
            if self._closing:
                return
            self.pieces.append(piece)
            self.status = Status.WRITING
            self._wake()

    def finish(
        self, reason: str, account: Account | None = None, prompt_logprobs: tuple[Logprob | None, ...] = ()
    ) -> None:
        """End it: `reason` is "stop", "length" or "abort". The first ending counts, later ones are ignored."""
        with self._condition:
            if self._closing:
                return
            self._closing = True
            self.finish_reason, self.account, self.prompt_logprobs = reason, account, prompt_logprobs
        self._close(Status.DONE)

    def fail(self, error: TenfoldError) -> None:
        """End it with an error; what is written stays."""
        with self._condition:
            if self._closing:
                return
            self._closing = True
            self.error = error
        self._close(Status.FAILED)

    def _close(self, status: Status) -> None:
        def tell() -> None:
            with self._condition:
                if self.ended:
                    return
                self.status = status
                self._wake()
                callbacks, self._callbacks = self._callbacks, []
            for callback in callbacks:
                self._call(callback)

        if self._keep is None:
            tell()
            return
        try:
            self._keep(self, tell)
        except Exception:
            log.exception("an answer could not be kept")
            tell()

    def _call(self, callback: Callable[[Generation], None]) -> None:
        try:
            callback(self)
        except Exception:
            log.exception("what follows a generation failed")

    def _wake(self) -> None:
        self._condition.notify_all()
        for listener in self._listeners:
            listener()

    # ---- reading -------------------------------------------------------------------------------------------------

    def on_end(self, callback: Callable[[Generation], None]) -> None:
        """Call back once when it has ended; at once if it has. Called from whichever thread ends it: never block."""
        with self._condition:
            if not self.ended:
                self._callbacks.append(callback)
                return
        self._call(callback)

    def follow(self, *, timeout: float | None = None) -> Iterator[Piece]:
        """Yield pieces as they come, from the beginning, until it ends."""
        seen = 0
        while True:
            with self._condition:
                self._condition.wait_for(lambda at=seen: len(self.pieces) > at or self.ended, timeout)  # type: ignore[misc]
                fresh = self.pieces[seen:]
                ended = self.ended
            seen += len(fresh)
            yield from fresh
            if ended and seen >= len(self.pieces):
                return

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; False on timeout."""
        with self._condition:
            return self._condition.wait_for(lambda: self.ended, timeout)

    async def afollow(self) -> AsyncIterator[Piece]:
        """Yield pieces as they come, from the beginning, until it ends; for the event loop."""
        loop, wake = asyncio.get_running_loop(), asyncio.Event()

        def listener() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closing
                loop.call_soon_threadsafe(wake.set)

        with self._condition:
            self._listeners.append(listener)
        try:
            seen = 0
            while True:
                wake.clear()
                fresh, ended = self.pieces[seen:], self.ended
                seen += len(fresh)
                for piece in fresh:
                    yield piece
                if ended and seen >= len(self.pieces):
                    return
                if not fresh:
                    await wake.wait()
        finally:
            with self._condition:
                self._listeners.remove(listener)
