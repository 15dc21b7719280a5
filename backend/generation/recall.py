"""Where a request's answer belongs in the answer cache, giving one that is there, and keeping a new one."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import asdict, dataclass

from backend.engine.protocol import EngineClient
from backend.generation.answers import AnswerCache, answer_key, likeness_scope, repeatable
from backend.generation.request import Prepared
from backend.generation.stream import CacheKind, CacheMark, Generation, Piece
from backend.models.text import StreamDecoder
from backend.store.tables.answers import Answer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AnswerPlace:
    """Where an answer belongs: its exact key, and what a like question must share (empty: it is found exactly only)."""

    key: str
    likeness_scope: str


class Recall:
    """Answers that were given before.

    Args:
        engine: whose model, variant and switches decide what would come out the same.
        answers: where they are kept.
        model: the name under which the model is served.
        workers: keep what takes time.
    """

    def __init__(self, engine: EngineClient, answers: AnswerCache, model: str, workers: Executor) -> None:
        self._engine, self._answers, self._model, self._workers = engine, answers, model, workers

    def place(self, prepared: Prepared) -> AnswerPlace | None:
        """Where the answer belongs; None where it would not come out the same, or the cache is off."""
        request, sampling = prepared.request, prepared.sampling
        plain = sampling.logprobs is None and sampling.prompt_logprobs is None
        if not (self._engine.switches.answer_cache and repeatable(sampling) and plain):
            return None
        variant_key = f"{self._model}:{self._engine.known().fingerprint}:{self._variant()}"
        tenant, corpus = request.tenant, request.corpus
        key = answer_key(
            prepared.token_ids, sampling, request.stop, tenant=tenant, variant_key=variant_key, corpus=corpus
        )
        if not request.question:
            return AnswerPlace(key, "")
        scope = likeness_scope(
            request.likeness_scope, corpus, asdict(sampling), request.stop, f"{tenant}:{variant_key}"
        )
        return AnswerPlace(key, scope)

    def _variant(self) -> str:
        """What of the switches changes an answer's tokens."""
        applied = self._engine.applied
        s = self._engine.in_force
        sparse = s.sparse_attention and s.sparse_keep_percent
        inexact = (s.kv_cache, sparse, s.chunk_reuse and s.chunk_recompute_percent)
        return f"{applied.variant if applied else ''}:{inexact}"

    def find(self, prepared: Prepared, place: AnswerPlace) -> tuple[Answer, CacheMark] | None:
        """The answer that is there for exactly this request, or where that is switched on for a like one."""
        request, switches = prepared.request, self._engine.switches
        answer = self._answers.get(place.key)
        if answer is not None:
            return answer, CacheMark(CacheKind.EXACT)
        if not switches.semantic_cache or not place.likeness_scope:
            return None
        found = self._answers.like(
            request.question, place.likeness_scope, switches.semantic_threshold_percent / 100,
            source=request.source, path=request.path, key_id=request.key_id,
        )  # fmt: skip
        if found is None:
            return None
        answer, similarity = found
        return answer, CacheMark(CacheKind.SEMANTIC, answer.question, similarity)

    def keeper(self, prepared: Prepared, place: AnswerPlace) -> Callable[[list[int], str, float], None]:
        """Keeps the answer to a request without holding anybody up; see `sink.Keep`."""
        request, comparable = prepared.request, self._engine.switches.semantic_cache

        def put(answer: Answer) -> None:
            try:
                self._answers.put(
                    answer, comparable=comparable, source=request.source, path=request.path, key_id=request.key_id
                )
            except Exception:
                log.exception("an answer could not be kept")

        def keep(token_ids: list[int], reason: str, compute_seconds: float) -> None:
            if self.place(prepared) != place:
                return  # other weights or pages came while it was written: it is neither's answer
            answer = Answer(
                key=place.key, likeness_scope=place.likeness_scope, question=request.question, token_ids=token_ids,
                finish_reason=reason, citations=list(request.citations), prompt_tokens=len(prepared.token_ids),
                compute_seconds=compute_seconds,
            )  # fmt: skip
            if not comparable:
                put(answer)
                return
            with contextlib.suppress(RuntimeError):  # the server is stopping
                self._workers.submit(put, answer)

        return keep


def write_again(generation: Generation, answer: Answer, mark: CacheMark, decoder: StreamDecoder) -> None:
    """Write a stored answer into a generation, but for its end."""
    cited = answer.citations if mark.kind is CacheKind.SEMANTIC else list(generation.request.citations)
    generation.mark_cached(mark, cited)
    for token in answer.token_ids:
        if not decoder.stopped:
            generation.push(Piece(decoder.push(token), token, None))
    rest = decoder.finish()
    if rest:
        generation.push(Piece(rest, -1, None))
