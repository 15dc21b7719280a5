"""Starts generations and sees them to their end: an answer given again, a reply, or the engine's tokens as text."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from backend.engine.messages import Failed, Finished, Generate
from backend.engine.protocol import EngineClient, Event, Token
from backend.engine.switches import Switches
from backend.errors import InvalidInputError, ModelFailedError, TenfoldError, UnavailableError
from backend.generation.answers import AnswerCache, answer_key, repeatable, scope_key
from backend.generation.request import Prepared, TextRequest, prepare
from backend.generation.stream import CacheKind, CacheMark, Generation, Piece, Status
from backend.generation.waiting import WaitingLine
from backend.metering.ledger import Asked, Ledger
from backend.models.text import StreamDecoder, TextModel
from backend.store.tables.answers import Answer

log = logging.getLogger(__name__)

WORKERS = 16
ERRORS: Mapping[str, type[TenfoldError]] = {
    "invalid": InvalidInputError,
    "unavailable": UnavailableError,
    "load_failed": ModelFailedError,
}
"""What the engine's kinds of failure are to a caller; any other is a fault of ours."""


@dataclass(frozen=True, slots=True)
class AnswerPlace:
    """Where in the answer cache a request's answer belongs: its exact key, and what a like question must share."""

    key: str
    scope: str


class GenerationService:
    """Everything that is being generated.

    Args:
        engine: who computes.
        text: tokenizer and template of the model that serves.
        ledger: who is told what it cost.
        answers: answers to give again.
        model: the name under which the model is served.
        default_max_tokens: longest answer of a request that does not say.
        max_waiting: for each path, how many requests may wait for their first token.
    """

    def __init__(
        self,
        engine: EngineClient,
        text: Callable[[], TextModel],
        ledger: Ledger,
        answers: AnswerCache,
        model: str,
        *,
        default_max_tokens: int,
        max_waiting: Mapping[str, int],
    ) -> None:
        self.engine, self.ledger, self.answers, self.model = engine, ledger, answers, model
        self._text, self._default_max_tokens = text, default_max_tokens
        self._line = WaitingLine(max_waiting)
        self._active: dict[str, Generation] = {}
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="prepare")

    @property
    def active(self) -> dict[str, Generation]:
        """Generations that have not ended, by id."""
        return dict(self._active)

    # ---- a request -----------------------------------------------------------------------------------------------

    def prepare(self, request: TextRequest) -> Prepared:
        """Render, tokenize and check a request, once; `start` takes what this gives.

        Raises:
            InvalidInputError: an empty prompt, tokens outside the vocabulary, parameters out of range.
            ContextLengthError: prompt and answer do not fit.
            UnavailableError: the model is not loaded yet and did not load in time.
        """
        if request.reply is not None:
            return Prepared(request, [], request.sampling)
        text = self._text()
        info = self.engine.known()
        return prepare(
            request, text, vocab=info.vocab, context=info.max_model_len, default_max_tokens=self._default_max_tokens
        )

    def start(self, prepared: Prepared, generation: Generation | None = None) -> Generation:
        """Hand a prepared request to the engine; returns the generation to follow.

        Args:
            prepared: what `prepare` gave.
            generation: the one to write into, where it has readers already.

        Raises:
            OverloadedError: too many requests of this path wait already; nothing was started.
        """
        request = prepared.request
        generation = generation or Generation(request)
        if request.reply is not None:
            generation.begin(prepared)
            self._reply(generation, request.reply)
            return generation
        switches = self.engine.switches
        place = self._place(prepared)
        plain = request.sampling.logprobs is None and request.sampling.prompt_logprobs is None
        keeps = switches.answer_cache and repeatable(request.sampling) and plain
        if keeps and not request.fresh and self._again(prepared, generation, place):
            return generation
        self._line.enter(generation.id, request.path)
        self._active[generation.id] = generation
        generation.on_end(self._forget)
        generation.begin(prepared)
        if generation.cancelled:
            generation.finish("abort")
            return generation
        decoder = StreamDecoder(self._text(), list(request.stop), request.sampling.stop_token_ids)
        sink = _Sink(self, prepared, generation, decoder, place if keeps else None, switches)
        self.engine.generate(
            Generate(
                generation.id, prepared.token_ids, prepared.sampling, request.path, request.salt, time.monotonic(),
                prepared.segments,
            ),
            sink,
        )  # fmt: skip
        if generation.cancelled:  # cancelled between the check and the submission
            self.engine.abort(generation.id)
        return generation

    def start_in_background(self, generation: Generation, make: Callable[[], TextRequest]) -> None:
        """Make the request in a worker (retrieval, waiting for the model), then start; errors end the generation."""
        self._active[generation.id] = generation
        generation.on_end(self._forget)

        def work() -> None:
            try:
                prepared = self.prepare(make())
                if generation.cancelled:
                    generation.finish("abort")
                    return
                self.start(prepared, generation)
            except InvalidInputError as error:
                generation.fail(error)
            except Exception as error:
                known = error if isinstance(error, TenfoldError) else TenfoldError(f"Something went wrong: {error}")
                if known is not error:
                    log.exception("a request could not be prepared")
                self.failed(generation, 0, known)

        try:
            self._workers.submit(work)
        except RuntimeError:
            generation.fail(UnavailableError("The server is stopping."))

    def cancel(self, generation: Generation) -> None:
        """Stop a generation wherever it is; what is written stays."""
        generation.cancelled = True
        if generation.status is Status.PREPARING:
            generation.finish("abort")
        else:
            self.engine.abort(generation.id)

    def close(self) -> None:
        """Cancel what runs and end the workers."""
        for generation in self.active.values():
            self.cancel(generation)
        self._workers.shutdown(wait=False, cancel_futures=True)

    # ---- answers that need no engine -----------------------------------------------------------------------------

    def _place(self, prepared: Prepared) -> AnswerPlace:
        request = prepared.request
        identity = f"{request.salt}:{self.model}:{self.engine.known().fingerprint}:{self._variant()}"
        key = answer_key(prepared.token_ids, prepared.sampling, request.stop, f"{identity}:{request.index_version}")
        if not request.question:
            return AnswerPlace(key, "")
        return AnswerPlace(
            key, scope_key(request.scope, request.index_version, asdict(prepared.sampling), request.stop, identity)
        )

    def _variant(self) -> str:
        """What of the switches changes an answer's tokens."""
        applied = self.engine.applied
        s = self.engine.switches
        sparse = s.sparse_attention and s.sparse_keep_percent
        inexact = (s.kv_cache, sparse, s.chunk_reuse and s.chunk_recompute_percent)
        return f"{applied.variant if applied else ''}:{inexact}"

    def _again(self, prepared: Prepared, generation: Generation, place: AnswerPlace) -> bool:
        """Give a stored answer, if there is one."""
        request, switches = prepared.request, self.engine.switches
        answer, mark = self.answers.get(place.key), CacheMark(CacheKind.EXACT)
        if answer is None and switches.semantic_cache and place.scope:
            found = self.answers.like(
                request.question, place.scope, switches.semantic_threshold_percent / 100,
                source=request.source, path=request.path,
            )  # fmt: skip
            if found is not None:
                answer = found[0]
                mark = CacheMark(CacheKind.SEMANTIC, answer.question, found[1])
        if answer is None:
            return False
        generation.begin(prepared)
        generation.mark_cached(mark, answer.citations if mark.kind is CacheKind.SEMANTIC else list(request.citations))
        decoder = StreamDecoder(self._text(), list(request.stop), request.sampling.stop_token_ids)
        for token in answer.token_ids:
            if not decoder.stopped:
                generation.push(Piece(decoder.push(token), token, None))
        rest = decoder.finish()
        if rest:
            generation.push(Piece(rest, -1, None))
        account = self.ledger.record_answer(self.asked(generation), answer, latency=generation.latency)
        generation.finish(answer.finish_reason, account)
        return True

    def _reply(self, generation: Generation, text: str) -> None:
        generation.push(Piece(text, -1, None))
        generation.finish("stop", self.ledger.record_reply(self.asked(generation), latency=generation.latency))

    # ---- what the sink calls -------------------------------------------------------------------------------------

    def asked(self, generation: Generation) -> Asked:
        """The request as the ledger names it."""
        return Asked(generation.id, generation.request.source, generation.request.path, self.model)

    def answering(self, generation: Generation) -> None:
        """Its first token is there, so it waits no longer."""
        self._line.leave(generation.id, generation.request.path)

    def failed(self, generation: Generation, prompt_tokens: int, error: TenfoldError) -> None:
        """End a generation with an error, which is a row and a count like any other ending."""
        self.ledger.record_failure(self.asked(generation), prompt_tokens=prompt_tokens, latency=generation.latency)
        generation.fail(error)

    def keep(self, answer: Answer, request: TextRequest, *, comparable: bool) -> None:
        """Keep an answer to give it again, without holding anybody up."""

        def put() -> None:
            try:
                self.answers.put(answer, comparable=comparable, source=request.source, path=request.path)
            except Exception:
                log.exception("an answer could not be kept")

        if not comparable:
            put()
            return
        with contextlib.suppress(RuntimeError):  # the server is stopping
            self._workers.submit(put)

    def _forget(self, generation: Generation) -> None:
        self._active.pop(generation.id, None)
        self._line.leave(generation.id, generation.request.path)


class _Sink:
    """Takes one request's events to its readers. Called from the thread that reads the engine: it never blocks."""

    def __init__(
        self,
        service: GenerationService,
        prepared: Prepared,
        generation: Generation,
        decoder: StreamDecoder,
        place: AnswerPlace | None,
        switches: Switches,
    ) -> None:
        self._service, self._prepared, self._generation = service, prepared, generation
        self._decoder, self._place, self._switches = decoder, place, switches
        self._tokens: list[int] = []

    def __call__(self, event: Event) -> None:
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
            self._service.answering(self._generation)
        self._tokens.append(event.token_id)
        self._generation.push(Piece(self._decoder.push(event.token_id), event.token_id, event.logprob))
        if self._decoder.stopped:
            self._service.engine.abort(self._generation.id)

    def _finished(self, event: Finished) -> None:
        rest = self._decoder.finish()
        if rest:
            self._generation.push(Piece(rest, -1, None))
        reason = "stop" if self._decoder.stopped else event.reason
        account = self._service.ledger.record(
            self._service.asked(self._generation), event.usage, outcome=reason, switches=self._switches.as_dict()
        )
        self._generation.prompt_logprobs = event.prompt_logprobs
        self._generation.finish(reason, account)
        if self._place is not None and reason in ("stop", "length"):
            request = self._prepared.request
            answer = Answer(
                key=self._place.key, scope=self._place.scope, question=request.question, token_ids=self._tokens,
                finish_reason=reason, citations=list(request.citations), prompt_tokens=len(self._prepared.token_ids),
                compute_seconds=event.usage.compute_seconds,
            )  # fmt: skip
            self._service.keep(answer, request, comparable=self._switches.semantic_cache)

    def _failed(self, event: Failed) -> None:
        error = ERRORS.get(event.kind, TenfoldError)(event.error)
        self._service.failed(self._generation, len(self._prepared.token_ids), error)
