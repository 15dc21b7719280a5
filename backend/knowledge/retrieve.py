"""From a question to the chunks that answer it, and to a prompt that quotes them.

Prompts are laid out so that their beginnings repeat: fixed instructions, then the passages in the order of their
documents, then the question. Citations name only chunks that are really in the prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from backend.engine.switches import Switches
from backend.errors import InvalidInputError, UnavailableError
from backend.generation.conversations import Grounding
from backend.knowledge.documents import Documents
from backend.knowledge.embeddings import EmbeddingService
from backend.knowledge.index import KnowledgeIndex
from backend.knowledge.search import Found, Scored
from backend.models.text import TextModel
from backend.settings import ROOT

INSTRUCTIONS = (ROOT / "data" / "prompts" / "answer_from_documents.md").read_text().strip()
PASSAGES = 4
CUT_OFF = 0.6
"""Passages that score less than this share of the best are noise to a small model, and cost prefill."""
LEAST_SIMILAR = 0.40
"""Cosine below which nothing found is about the question. Measured on HotpotQA's 100: no question whose passages were
there fell below it, and 68 of 100 did whose passages had been taken out."""
UNKNOWN = "I don't know from these documents."
ANSWER_RESERVE = 400
"""Tokens of the context kept for the answer and the template around the prompt."""


@dataclass(frozen=True)
class Hit:
    """A chunk found: where it is from, its text, its score and what that is made of."""

    chunk_id: str
    document_id: str
    document: str
    position: int
    text: str
    score: float
    parts: Scored


class Retriever:
    """Searches documents that have a version in force."""

    def __init__(
        self,
        documents: Documents,
        embeddings: EmbeddingService,
        index: KnowledgeIndex,
        text: Callable[[], TextModel],
        context: Callable[[], int],
        switches: Callable[[], Switches],
        index_version: Callable[[], int],
    ) -> None:
        self._documents, self._embeddings, self._index = documents, embeddings, index
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
        if collection is not None and collection not in self._documents.collections():
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

    def ground(
        self, question: str, history: list[dict[str, str]], collection: str | None, system: str, *, source: str
    ) -> Grounding:
        """Messages that ask a question over the passages found for it, and their citations.

        The oldest turns, then the least similar passages are left out until the prompt fits the context. Where nothing
        found is about the question, the reply is that, and the model is not asked.

        Raises:
            InvalidInputError: there is nothing to answer from.
        """
        hits = self.search(question, collection, source=source)
        if not hits:
            raise InvalidInputError(
                "There is no ready document to answer from. Upload one, or switch off answering from documents."
            )
        version = self._index_version()
        if not history and max(hit.parts.cosine for hit in hits) < LEAST_SIMILAR:
            return Grounding([], [], reply=UNKNOWN, index_version=version)
        hits = [hit for hit in hits if hit.score >= CUT_OFF * hits[0].score]
        room = self._context() - ANSWER_RESERVE
        while True:
            messages, citations = self._layout(question, history, hits, system)
            if len(self._text().encode_chat(messages)) <= room or (len(hits) == 1 and not history):
                passages = tuple(citation["text"] for citation in citations)
                return Grounding(messages, citations, passages=passages, index_version=version)
            if history:
                history = history[2:]
            else:
                hits = hits[:-1]

    def _layout(
        self, question: str, history: list[dict[str, str]], hits: list[Hit], system: str
    ) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
        ordered = sorted(hits, key=lambda hit: (hit.document_id, hit.position))
        citations: list[dict[str, Any]] = []
        passages = []
        for number, hit in enumerate(ordered, start=1):
            passages.append(f"[{number}] {hit.document}\n{hit.text}")
            citations.append(
                {
                    "number": number,
                    "chunk_id": hit.chunk_id,
                    "document_id": hit.document_id,
                    "document": hit.document,
                    "position": hit.position,
                    "score": round(hit.score, 4),
                    "text": hit.text,
                }
            )
        instructions = f"{system.strip()}\n\n{INSTRUCTIONS}" if system.strip() else INSTRUCTIONS
        messages = [
            {"role": "system", "content": instructions},
            *history,
            {"role": "user", "content": "Passages:\n\n" + "\n\n".join(passages) + f"\n\nQuestion: {question}"},
        ]
        return messages, citations
