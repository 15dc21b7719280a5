"""Starts generations and sees them to their end: an answer given again, a reply, or the engine's tokens as text."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from backend.engine.messages import REALTIME, Generate
from backend.engine.protocol import EngineClient, EngineState
from backend.errors import InvalidInputError, TenfoldError, UnavailableError
from backend.generation.answers import AnswerCache
from backend.generation.recall import AnswerPlace, Recall, write_again
from backend.generation.request import Prepared, TextRequest, prepare
from backend.generation.sink import Sink, fail
from backend.generation.stream import Generation, Piece, Status
from backend.generation.waiting import WaitingLine
from backend.metering.entry import SECOND, Asked
from backend.metering.ledger import Ledger
from backend.models.text import StreamDecoder, TextModel

log = logging.getLogger(__name__)

WORKERS = 16


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
        admit: called with a key's id before anything reaches the engine; raises where its budget is used up.
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
        admit: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._engine, self._ledger, self._model = engine, ledger, model
        self._text, self._default_max_tokens = text, default_max_tokens
        self._line, self._admit = WaitingLine(max_waiting), admit
        self._active: dict[str, Generation] = {}
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="prepare")
        self._recall = Recall(engine, answers, model, self._workers)

    @property
    def active(self) -> dict[str, Generation]:
        """Generations that have not ended, by id."""
        return dict(self._active)

    def unended(self) -> list[tuple[float, bool]]:
        """When each generation that has not ended began, and whether somebody waits for its first token."""
        active = self.active.values()
        return [(one.created, one.request.path == REALTIME and not one.pieces) for one in active]

    @property
    def engine_state(self) -> EngineState:
        """What the engine that answers is doing."""
        return self._engine.state

    @property
    def fingerprint(self) -> str:
        """Of the model that answers; empty while none is loaded."""
        info = self._engine.info
        return info.fingerprint if info else ""

    @property
    def context(self) -> int:
        """Most tokens of prompt and answer together; raises UnavailableError until it is known."""
        return self._engine.known().max_model_len

    def refusals(self) -> list[tuple[tuple[str, str, str], float]]:
        """How many requests found no place in the line, as `/metrics` shows it."""
        return [((self._model, "0", "max_num_queued_reqs"), self._line.refused)]

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
        info = self._engine.known()
        return prepare(
            request, text, vocab=info.vocab, context=info.max_model_len, default_max_tokens=self._default_max_tokens
        )

    def start(self, prepared: Prepared, generation: Generation | None = None) -> Generation:
        """Hand a prepared request to the engine; returns the generation to follow.

        Args:
            prepared: what `prepare` gave.
            generation: the one to write into, where it has readers already.

        Raises:
            OverloadedError: too many requests of this path wait already, or no money is left; nothing was started.
        """
        request = prepared.request
        generation = generation or Generation(request)
        if request.reply is not None:
            generation.begin(prepared)
            generation.push(Piece(request.reply, -1, None))
            generation.finish("stop", self._ledger.record_reply(self._asked(generation), latency=generation.latency))
            return generation
        place = self._recall.place(prepared)
        if place is not None and not request.fresh and self._answered_before(prepared, generation, place):
            return generation
        self._admit(request.key_id)
        self._line.enter(generation.id, request.path)
        self._active[generation.id] = generation
        generation.on_end(self._forget)
        generation.begin(prepared)
        if generation.cancelled:
            generation.finish("abort")
            return generation
        sink = Sink(
            generation, self._decoder(request), self._asked(generation), self._ledger,
            answering=lambda: self._line.leave(generation.id, request.path),
            abort=lambda: self._engine.abort(generation.id),
            keep=self._recall.keeper(prepared, place) if place is not None else None,
        )  # fmt: skip
        self._engine.generate(
            Generate(
                generation.id, prepared.token_ids, prepared.sampling, request.path, request.tenant, time.monotonic(),
                prepared.segments,
            ),
            sink,
        )  # fmt: skip
        if generation.cancelled:  # cancelled between the check and the submission
            self._engine.abort(generation.id)
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
                fail(generation, self._asked(generation), self._ledger, known, prompt_tokens=0)

        try:
            self._workers.submit(work)
        except RuntimeError:
            generation.fail(UnavailableError("The server is stopping."))

    def in_background(self, work: Callable[[], None]) -> None:
        """Have something done by a worker that nobody waits for.

        Raises:
            RuntimeError: the server is stopping.
        """
        self._workers.submit(work)

    def cancel(self, generation: Generation) -> None:
        """Stop a generation wherever it is; what is written stays."""
        generation.cancelled = True
        if generation.status is Status.PREPARING:
            generation.finish("abort")
        else:
            self._engine.abort(generation.id)

    def close(self) -> None:
        """Cancel what runs and end the workers."""
        for generation in self.active.values():
            self.cancel(generation)
        self._workers.shutdown(wait=False, cancel_futures=True)

    def _answered_before(self, prepared: Prepared, generation: Generation, place: AnswerPlace) -> bool:
        """Give a stored answer, if there is one."""
        try:
            found = self._recall.find(prepared, place)
        except Exception:  # a cache never refuses what the engine would answer
            log.exception("an answer given before could not be looked for")
            return False
        if found is None:
            return False
        answer, mark = found
        generation.begin(prepared)
        write_again(generation, answer, mark, self._decoder(prepared.request))
        account = self._ledger.record_answer(self._asked(generation), answer, latency=generation.latency)
        generation.finish(answer.finish_reason, account)
        return True

    def _decoder(self, request: TextRequest) -> StreamDecoder:
        decoder = StreamDecoder(self._text(), list(request.stop), request.sampling.stop_token_ids)
        for token in request.continued:  # their text is written; what follows may need them to be decoded
            decoder.push(token)
        return decoder

    def _asked(self, generation: Generation) -> Asked:
        """The request as the ledger names it."""
        request = generation.request
        return Asked(
            generation.id, request.source, request.path, self._model, request.key_id, request.tenant,
            self._engine.in_force, round(request.search_seconds * SECOND),
        )  # fmt: skip

    def _forget(self, generation: Generation) -> None:
        self._active.pop(generation.id, None)
        self._line.leave(generation.id, generation.request.path)
