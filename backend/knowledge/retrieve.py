"""From a question to the chunks that answer it, and with `grounding` to a prompt that quotes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from backend.engine.switches import Switches
from backend.errors import InvalidInputError, UnavailableError
from backend.knowledge.collections import Collections
from backend.knowledge.documents import Documents
from backend.knowledge.embeddings import EmbeddingService
from backend.knowledge.grounding import Grounding, Passage, fitted
from backend.knowledge.index import KnowledgeIndex
from backend.knowledge.search import Found, Scored
from backend.models.text import TextModel

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
    """Searches documents that have a version in force."""

    def __init__(
        self,
        documents: Documents,
        collections: Collections,
        embeddings: EmbeddingService,
        index: KnowledgeIndex,
        text: Callable[[], TextModel],
        context: Callable[[], int],
        switches: Callable[[], Switches],
        index_version: Callable[[], int],
    ) -> None:
        self._documents, self._collections = documents, collections
        self._embeddings, self._index = embeddings, index
        self._text, self._context, self._switches = text, context, switches
        self._index_version = index_version

    def find(self, question: str, collection: str | None, *, mode: str | None = None, source: str) -> Found:
        """Rank chunks for a question, in the mode that is switched on or in another of `search.MODES`.

        Raises:
            InvalidInputError: no such collection, or an empty question.
            UnavailableError: the index is still being opened.
        """
        if not question.strip():
            raise InvalidInputError("The question is empty.", param="query")
        if collection is not None and not self._collections.exists(collection):
            raise InvalidInputError(f"There is no collection {collection!r}.", param="documents")
        mode = mode or ("graph" if self._switches().graph_retrieval else "dense")
        if not self._index.wait_opened(15):
            raise UnavailableError("The search index is still being opened; retry in a moment.")
        vector = self._embeddings.embed([question], source=source).vectors[0]
        among = None if collection is None else self._documents.searchable(collection)
        return self._index.search(question, vector, mode=mode, documents=among)

    def search(
        self, question: str, collection: str | None, *, count: int = PASSAGES, mode: str | None = None, source: str
    ) -> list[Hit]:
        """The best chunks for a question, best first; raises as `find` does."""
        return self.hits(self.find(question, collection, mode=mode, source=source), count)

    def hits(self, found: Found, count: int) -> list[Hit]:
        """The best chunks of a search with their texts; those deleted meanwhile are left out."""
        best = found.scored[: 2 * count + 8]
        rows = self._documents.found([scored.chunk_id for scored in best])
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

    def ground(
        self,
        question: str,
        history: list[dict[str, str]],
        collection: str | None,
        system: str,
        *,
        max_tokens: int | None = None,
        source: str,
    ) -> Grounding:
        """Messages that ask a question over the passages found for it, and their citations.

        What does not fit the context beside an answer of `max_tokens` is left out (see `grounding.fitted`), and the
        grounding says what. Where nothing found is about the question, the reply is that, and the model is not asked.

        Raises:
            InvalidInputError: there is nothing to answer from.
        """
        hits = self.search(question, collection, source=source)
        if not hits:
            raise InvalidInputError(
                "There is no ready document to answer from. Upload one, or switch off answering from documents."
            )
        version = self._index_version()
        if not history and not self.about(hits):
            return Grounding([], [], reply=UNKNOWN, index_version=version)
        hits = [hit for hit in hits if hit.score >= CUT_OFF * hits[0].score]
        return fitted(
            question, history, hits, system, count=lambda messages: len(self._text().encode_chat(messages)),
            context=self._context(), answer=max_tokens, index_version=version,
        )  # fmt: skip
