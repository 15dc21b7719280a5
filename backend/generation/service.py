"""Generations: each belongs to the backend, is followed by any number of readers, and ends exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from backend.engine.client import EngineClient, Event, Token
from backend.engine.messages import MOST_LISTED, REALTIME, Failed, Finished, Generate, Logprob, SamplingParams
from backend.errors import ContextLengthError, InvalidInputError, TenfoldError, UnavailableError
from backend.generation.answers import AnswerCache, answer_key, repeatable, scope_key
from backend.metering.account import Account
from backend.metering.ledger import Ledger
from backend.models.text import StreamDecoder, TextModel
from backend.store.tables import Answer, new_id

log = logging.getLogger(__name__)

MAX_STOPS = 16
DEFAULT_MAX_TOKENS = 512
"""Most tokens of an answer that says nothing of its length; a setting."""


@dataclass(frozen=True)
class TextRequest:
    """What to generate: messages for the chat template, plain text, or token ids.

    Attributes:
        passages: texts within the messages that may come again elsewhere in other prompts.
        citations: what the messages quote, kept with the answer.
        question: the one question of a conversation that has no other; another like it may be answered the same.
        scope: what such a question must have in common with this one.
        index_version: of the documents that were searched; 0 where none were.
        fresh: do not give an answer again.
        reply: what to answer without asking the model.
    """

    messages: list[dict[str, str]] | None = None
    text: str | None = None
    token_ids: list[int] | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int | None = None  # None: as much as fits, up to the setting; 0: only the prompt is read
    stop: tuple[str, ...] = ()
    path: str = REALTIME
    source: str = "api"
    salt: str = ""
    passages: tuple[str, ...] = ()
    citations: tuple[dict[str, Any], ...] = ()
    question: str = ""
    scope: str = ""
    index_version: int = 0
    fresh: bool = False
    reply: str | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """A token's worth of stream: the text that became certain with it (may be empty), and its log probability."""

    text: str
    token_id: int
    logprob: Logprob | None


class Generation:
    """One answer being written. Read it from any thread, or follow it from a coroutine."""

    def __init__(self, request: TextRequest) -> None:
        self.id = new_id()
        self.request = request
        self.created = time.time()
        self.pieces: list[Piece] = []
        self.status = "preparing"  # preparing, queued, writing, done, failed
        self.note = ""  # what is being done while nothing is written yet
        self.finish_reason: str | None = None
        self.error: TenfoldError | None = None
        self.account: Account | None = None
        self.details: dict[str, Any] = {}
        self.prompt_ids: list[int] = []
        self.prompt_logprobs: tuple[Logprob | None, ...] = ()  # where they were asked for; known at the end
        self.cancelled = False
        self._closing = False
        self._condition = threading.Condition()
        self._listeners: list[Callable[[], None]] = []
        self._callbacks: list[Callable[[Generation], None]] = []

    @property
    def text(self) -> str:
        """Everything written so far."""
        return "".join(piece.text for piece in list(self.pieces))

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.status in ("done", "failed")

    def on_end(self, callback: Callable[[Generation], None]) -> None:
        """Call back once when it has ended; at once if it has."""
        with self._condition:
            if not self._closing:
                self._callbacks.append(callback)
                return
        callback(self)

    def update(self, **changes: Any) -> None:
        """Set attributes and wake every reader. The first ending counts; later ones are ignored.

        What was registered with `on_end` has been done (an answer stored, say) when readers learn of the end.
        """
        status = changes.pop("status", self.status)
        with self._condition:
            if self._closing:
                return
            self._closing = status in ("done", "failed")
            for name, value in changes.items():
                setattr(self, name, value)
            callbacks = list(self._callbacks) if self._closing else []
        for callback in callbacks:
            try:
                callback(self)
            except Exception:
                log.exception("what follows a generation failed")
        with self._condition:
            self.status = status
            self._wake()

    def push(self, piece: Piece) -> None:
        """Append a piece and wake every reader."""
        with self._condition:
            if self._closing:
                return
            self.pieces.append(piece)
            self.status = "writing"
            self._wake()

    def _wake(self) -> None:
        self._condition.notify_all()
        for listener in self._listeners:
            listener()

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


def check_sampling(sampling: SamplingParams, stop: tuple[str, ...]) -> None:
    """Refuse parameters that mean nothing.

    Raises:
        InvalidInputError: names the parameter and its range.
    """
    ranges: dict[str, tuple[float, float]] = {
        "temperature": (0, 2),
        "top_p": (0, 1),
        "min_p": (0, 1),
        "repetition_penalty": (0.01, 10),
        "frequency_penalty": (-2, 2),
        "presence_penalty": (-2, 2),
        "top_k": (0, 1 << 20),
        "logprobs": (0, 20),
        "prompt_logprobs": (0, 20),
    }
    for name, (low, high) in ranges.items():
        value = getattr(sampling, name)
        if value is None:
            continue
        if not math.isfinite(value) or not low <= value <= high:
            raise InvalidInputError(f"{name} must be between {low:g} and {high:g}, not {value}.", param=name)
    for token, bias in sampling.logit_bias:
        if not -100 <= bias <= 100:
            raise InvalidInputError(
                f"logit_bias must be between -100 and 100, not {bias} (of token {token}).", param="logit_bias"
            )
    for name, listed in (("logit_bias", sampling.logit_bias), ("stop_token_ids", sampling.stop_token_ids)):
        if len(listed) > MOST_LISTED:
            raise InvalidInputError(f"{name} names {len(listed)} tokens; at most {MOST_LISTED} are taken.", param=name)
    if sampling.top_p == 0:
        raise InvalidInputError("top_p must be above 0.", param="top_p")
    if len(stop) > MAX_STOPS:
        raise InvalidInputError(f"At most {MAX_STOPS} stop strings are allowed, not {len(stop)}.", param="stop")


def _overflow(context: int, prompt: int, request: TextRequest) -> ContextLengthError:
    """Worded as OpenAI words it, since clients look for these words."""
    what = "prompt" if request.messages is None else "messages"
    if request.max_tokens is None:
        asked = f"your {what} resulted in {prompt} tokens. Please reduce the length of the {what}."
    else:
        asked = (
            f"you requested {prompt + request.max_tokens} tokens ({prompt} in the {what}, {request.max_tokens} in the "
            f"completion). Please reduce the length of the {what} or the completion."
        )
    return ContextLengthError(f"This model's maximum context length is {context} tokens. However, {asked}", param=what)


class GenerationService:
    """Starts generations and sees them to their end."""

    def __init__(
        self,
        engine: EngineClient,
        text: Callable[[], TextModel],
        ledger: Ledger,
        answers: AnswerCache,
        model: str,
        default_max_tokens: int = DEFAULT_MAX_TOKENS,
    ) -> None:
        self._default_max_tokens = default_max_tokens
        self.engine, self.ledger, self.answers, self.model = engine, ledger, answers, model
        self._text = text
        self._active: dict[str, Generation] = {}
        self._workers = ThreadPoolExecutor(16, thread_name_prefix="prepare")

    @property
    def active(self) -> dict[str, Generation]:
        """Generations that have not ended, by id."""
        return dict(self._active)

    def prepare(self, request: TextRequest) -> tuple[list[int], SamplingParams, tuple[tuple[int, int], ...]]:
        """Tokenize and check a request; also says where its passages stand.

        Raises:
            InvalidInputError: an empty prompt, tokens outside the vocabulary, parameters out of range.
            ContextLengthError: prompt and answer do not fit.
            UnavailableError: the model is not loaded yet and did not load in time.
        """
        check_sampling(request.sampling, request.stop)
        least = 1 if request.sampling.prompt_logprobs is None else 0
        if request.max_tokens is not None and request.max_tokens < least:
            raise InvalidInputError(f"max_tokens must be at least {least}.", param="max_tokens")
        text = self._text()
        segments: tuple[tuple[int, int], ...] = ()
        if request.messages is not None:
            try:
                ids, segments = text.encode_chat_with(request.messages, request.passages)
            except ValueError as error:
                raise InvalidInputError(str(error), param="messages") from error
        elif request.text is not None:
            ids = text.encode(request.text)
        else:
            ids = list(request.token_ids or [])
        if not ids:
            raise InvalidInputError("The prompt is empty.", param="prompt")
        info = self.engine.info
        vocab, context = info["vocab"], info["max_model_len"]
        wrong = next((i for i in ids if not 0 <= i < vocab), None)
        if wrong is not None:
            raise InvalidInputError(f"Token id {wrong} is outside the vocabulary of {vocab} tokens.", param="prompt")
        strange = next((token for token in request.sampling.named_tokens() if not 0 <= token < vocab), None)
        if strange is not None:
            param = "stop_token_ids" if strange in request.sampling.stop_token_ids else "logit_bias"
            raise InvalidInputError(
                f"{param}: token id {strange} is outside the vocabulary of {vocab} tokens.", param=param
            )
        room = context - len(ids)
        if room < (1 if request.max_tokens is None else request.max_tokens):
            raise _overflow(context, len(ids), request)
        most = min(room, self._default_max_tokens) if request.max_tokens is None else request.max_tokens
        if request.sampling.min_tokens > most:
            raise InvalidInputError(
                f"min_tokens must not be more than the {most} tokens that the answer may have.", param="min_tokens"
            )
        return ids, replace(request.sampling, max_tokens=most), segments

    def start(self, request: TextRequest, generation: Generation | None = None) -> Generation:
        """Check a request and hand it to the engine; returns the generation to follow.

        Raises:
            TenfoldError: what `prepare` raises; nothing was started then.
        """
        generation = generation or Generation(request)
        generation.request = request
        if request.reply is not None:
            self._reply(generation, request.reply)
            return generation
        ids, sampling, segments = self.prepare(request)
        switches = self.engine.switches
        identity = f"{request.salt}:{self.model}:{self.engine.info['fingerprint']}:{self._variant()}"
        key = answer_key(ids, sampling, request.stop, f"{identity}:{request.index_version}")
        generation.prompt_ids = ids
        plain = sampling.logprobs is None and sampling.prompt_logprobs is None
        keeps = switches.answer_cache and repeatable(sampling) and plain
        scope = ""
        if request.question:
            scope = scope_key(request.scope, request.index_version, asdict(sampling), request.stop, identity)
        if keeps and not request.fresh and self._again(generation, key, scope):
            return generation
        decoder = StreamDecoder(self._text(), list(request.stop), request.sampling.stop_token_ids)
        self._active[generation.id] = generation
        generation.on_end(self._forget)
        generation.update(status="queued", note="")
        tokens: list[int] = []

        def sink(event: Event) -> None:
            if isinstance(event, Token):
                if decoder.stopped:
                    return
                tokens.append(event.token_id)
                generation.push(Piece(decoder.push(event.token_id), event.token_id, event.logprob))
                if decoder.stopped:
                    self.engine.abort(generation.id)
            elif isinstance(event, Finished):
                rest = decoder.finish()
                if rest:
                    generation.push(Piece(rest, -1, None))
                reason = "stop" if decoder.stopped else event.reason
                account = self.ledger.record(
                    event.usage,
                    request_id=generation.id,
                    source=request.source,
                    path=request.path,
                    model=self.model,
                    outcome=reason,
                    switches=switches.as_dict(),
                )
                generation.update(
                    status="done", finish_reason=reason, account=account, prompt_logprobs=event.prompt_logprobs
                )
                if keeps and reason in ("stop", "length"):
                    answer = Answer(
                        key=key, scope=scope, question=request.question, token_ids=tokens, finish_reason=reason,
                        citations=list(request.citations), prompt_tokens=len(ids),
                        compute_seconds=event.usage.compute_seconds,
                    )  # fmt: skip
                    self._later(lambda: self.answers.put(answer))
            elif isinstance(event, Failed):
                kind = InvalidInputError if event.kind == "invalid" else UnavailableError
                generation.update(status="failed", error=kind(event.error))

        if generation.cancelled:
            generation.update(status="done", finish_reason="abort")
            return generation
        self.engine.generate(
            Generate(generation.id, ids, sampling, request.path, request.salt, time.monotonic(), segments), sink
        )
        if generation.cancelled:  # cancelled between the check and the submission
            self.engine.abort(generation.id)
        return generation

    def _variant(self) -> str:
        """What of the switches changes an answer's tokens."""
        applied = self.engine.applied
        s = self.engine.switches
        sparse = s.sparse_attention and s.sparse_keep_percent
        inexact = (s.kv_cache, sparse, s.chunk_reuse and s.chunk_recompute_percent)
        return f"{applied.variant if applied else ''}:{inexact}"

    def _again(self, generation: Generation, key: str, scope: str) -> bool:
        """Give a stored answer, if there is one."""
        request, switches = generation.request, self.engine.switches
        answer, details = self.answers.get(key), {"kind": "exact"}
        if answer is None and switches.semantic_cache and scope:
            found = self.answers.like(request.question, scope, switches.semantic_threshold_percent / 100)
            if found is not None:
                answer = found[0]
                details = {"kind": "semantic", "question": answer.question, "similarity": f"{found[1]:.3f}"}
        if answer is None:
            return False
        generation.details["answer_cache"] = details
        if details["kind"] == "semantic":
            generation.details["citations"] = answer.citations
        decoder = StreamDecoder(self._text(), list(request.stop), request.sampling.stop_token_ids)
        for token in answer.token_ids:
            if not decoder.stopped:
                generation.push(Piece(decoder.push(token), token, None))
        rest = decoder.finish()
        if rest:
            generation.push(Piece(rest, -1, None))
        account = self.ledger.record_answer(
            answer, request_id=generation.id, source=request.source, path=request.path, model=self.model,
            latency=time.time() - generation.created,
        )  # fmt: skip
        generation.update(status="done", finish_reason=answer.finish_reason, account=account)
        return True

    @staticmethod
    def _reply(generation: Generation, text: str) -> None:
        generation.push(Piece(text, -1, None))
        generation.update(status="done", finish_reason="stop")

    def _later(self, work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                work()
            except Exception:
                log.exception("an answer could not be kept")

        with contextlib.suppress(RuntimeError):  # the server is stopping
            self._workers.submit(guarded)

    def start_in_background(self, generation: Generation, prepare: Callable[[], TextRequest]) -> None:
        """Make the request in a worker (retrieval, waiting for the model), then start; errors end the generation."""
        self._active[generation.id] = generation
        generation.on_end(self._forget)

        def work() -> None:
            try:
                request = prepare()
                if generation.cancelled:
                    generation.update(status="done", finish_reason="abort")
                    return
                self.start(request, generation)
            except TenfoldError as error:
                generation.update(status="failed", error=error)
            except Exception as error:
                log.exception("a request could not be prepared")
                generation.update(status="failed", error=TenfoldError(f"Something went wrong: {error}"))

        self._workers.submit(work)

    def _forget(self, generation: Generation) -> None:
        self._active.pop(generation.id, None)

    def cancel(self, generation: Generation) -> None:
        """Stop a generation wherever it is; what is written stays."""
        generation.cancelled = True
        if generation.status == "preparing":
            generation.update(status="done", finish_reason="abort")
        else:
            self.engine.abort(generation.id)

    def close(self) -> None:
        """Cancel what runs and end the workers."""
        for generation in self.active.values():
            self.cancel(generation)
        self._workers.shutdown(wait=False, cancel_futures=True)
