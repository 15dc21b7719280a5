"""From a question to the chunks that answer it, and with `grounding` to a prompt that quotes them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from backend.engine.messages import REALTIME
from backend.engine.protocol import EngineClient
from backend.errors import InvalidInputError, UnavailableError
from backend.knowledge.collections import Collections
from backend.knowledge.documents import Documents
from backend.knowledge.embeddings import EmbeddingService
from backend.knowledge.grounding import Grounding, Passage, fitted
from backend.knowledge.index import KnowledgeIndex
from backend.knowledge.index_version import IndexVersion
from backend.knowledge.search import Found, Scored
from backend.knowledge.sight import SHARED, Sight
from backend.models.texts import Texts

PASSAGES = 4
CUT_OFF = 0.6
"""Passages that score less than this share of the best are noise to a small model, and cost prefill."""
LEAST_SIMILAR = 0.40
"""Cosine below which nothing found is about the question. Measured on HotpotQA's 100: no question whose passages were
there fell below it, and 68 of 100 did whose passages had been taken out."""
UNKNOWN = "I don't know from these documents."


@dataclass(frozen=True)
class Hit(Passage):
    """A chunk found, and what its score is made of."""

    parts: Scored


class Retriever:
    """Searches documents that have a version in force and are seen by whoever asks."""

    def __init__(
        self,
        documents: Documents,
        collections: Collections,
        embeddings: EmbeddingService,
        index: KnowledgeIndex,
        index_version: IndexVersion,
        texts: Texts,
        engine: EngineClient,
    ) -> None:
        self._documents, self._collections = documents, collections
        self._embeddings, self._index = embeddings, index
        self._index_version, self._texts, self._engine = index_version, texts, engine

    def find(
        self, question: str, collection: str | None, sight: Sight, *, mode: str | None = None, source: str,
        key_id: str = "",
    ) -> Found:  # fmt: skip
        """Rank chunks for a question, in the mode that is switched on or in another of `search.MODES`.

        Its embedding is on the ledger as the `source`'s, and the key's of that id.

        Raises:
            InvalidInputError: no such collection, or an empty question.
            UnavailableError: the index is still being opened.
        """
        return self._rank(question, self._among(question, collection, sight), mode, source, key_id)

    def _among(self, question: str, collection: str | None, sight: Sight) -> set[str] | None:
        """The documents to be searched; None: all."""
        if not question.strip():
            raise InvalidInputError("The question is empty.")
        if collection is not None and not self._collections.exists(collection, sight):
            raise InvalidInputError(f"There is no collection {collection!r}.", param="documents")
        return self._documents.searchable(sight, collection)

    def _rank(self, question: str, among: set[str] | None, mode: str | None, source: str, key_id: str) -> Found:
        mode = mode or ("graph" if self._engine.switches.graph_retrieval else "dense")
        if not self._index.wait_opened(15):
            raise UnavailableError("The search index is still being opened; retry in a moment.")
        vector = self._embeddings.vectors([question], source, REALTIME, key_id)[0]
        return self._index.search(question, vector, mode=mode, documents=among)

    def hits(self, found: Found, count: int, sight: Sight) -> list[Hit]:
        """The best chunks of a search with their texts; those deleted or hidden meanwhile are left out."""
        best = found.scored[: 2 * count + 8]
        rows = self._documents.found([scored.chunk_id for scored in best], sight)
        out = []
        for scored in best:
            if scored.chunk_id in rows:
                chunk, document = rows[scored.chunk_id]
                out.append(
                    Hit(chunk.id, document.id, document.name, chunk.position, chunk.text, scored.score, scored)
                )
        return out[:count]

    @staticmethod
    def about(hits: list[Hit]) -> bool:
        """Whether anything found is about the question; where nothing is, the model is not asked."""
        return any(hit.parts.cosine >= LEAST_SIMILAR for hit in hits)

    def ground_for_job(self, question: str, system: str, max_tokens: int, key_id: str) -> Grounding:
        """A question of a job, over what everybody sees; see `ground`."""
        return self.ground(question, [], None, system, SHARED, max_tokens=max_tokens, source="job", key_id=key_id)

    def ground(
        self,
        question: str,
        history: list[dict[str, str]],
        collection: str | None,
        system: str,
        sight: Sight,
        *,
        max_tokens: int | None = None,
        source: str,
        key_id: str = "",
    ) -> Grounding:
        """Messages that ask a question over the passages found for it, and their citations.

        What does not fit the context beside an answer of `max_tokens` is left out (see `grounding.fitted`), and the
        grounding says what. Where nothing found is about the question, the reply is that, and the model is not asked.

        Raises:
            InvalidInputError: there is nothing to answer from.
        """
        among, started = self._among(question, collection, sight), time.perf_counter()
        hits = self.hits(self._rank(question, among, None, source, key_id), PASSAGES, sight)
        seconds = time.perf_counter() - started
        if not hits:
            raise InvalidInputError(
                "There is no ready document to answer from. Upload one, or switch off answering from documents."
            )
        corpus = _corpus(self._index_version.value, among)
        if not history and not self.about(hits):
            return Grounding([], [], reply=UNKNOWN, corpus=corpus, search_seconds=seconds)
        hits = [hit for hit in hits if hit.score >= CUT_OFF * hits[0].score]
        grounding = fitted(
            question, history, hits, system, count=lambda messages: len(self._texts.text().encode_chat(messages)),
            context=self._engine.known().max_model_len, answer=max_tokens, corpus=corpus,
        )  # fmt: skip
        return replace(grounding, search_seconds=seconds)


def _corpus(index_version: int, documents: Iterable[str] | None) -> str:
    """What is searched, so that an answer is given again only over the very same documents; None: all of them."""
    if documents is None:
        return str(index_version)
    return f"{index_version}:{hashlib.sha256(' '.join(sorted(documents)).encode()).hexdigest()}"
