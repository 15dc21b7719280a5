"""From a question to the chunks that answer it, and to a prompt that quotes them.

Prompts are laid out so that their beginnings repeat: fixed instructions, then the passages in the order of their
documents, then the question. Citations name only chunks that are really in the prompt.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from backend.errors import InvalidInputError, UnavailableError
from backend.generation.conversations import Grounding
from backend.knowledge.documents import Documents
from backend.knowledge.embeddings import EmbeddingService
from backend.knowledge.index import VectorIndex
from backend.models.text import TextModel
from backend.settings import ROOT

INSTRUCTIONS = (ROOT / "data" / "prompts" / "answer_from_documents.md").read_text().strip()
PASSAGES = 4
CUT_OFF = 0.6
"""Passages less similar than this share of the best one's similarity are noise to a small model, and cost prefill."""
ANSWER_RESERVE = 400
"""Tokens of the context kept for the answer and the template around the prompt."""


@dataclass(frozen=True)
class Hit:
    """A chunk found: where it is from, its text and its cosine similarity to the question."""

    chunk_id: str
    document_id: str
    document: str
    position: int
    text: str
    score: float


class Retriever:
    """Searches ready documents."""

    def __init__(
        self,
        documents: Documents,
        embeddings: EmbeddingService,
        index: VectorIndex,
        text: Callable[[], TextModel],
        context: Callable[[], int],
    ) -> None:
        self._documents, self._embeddings, self._index = documents, embeddings, index
        self._text, self._context = text, context

    def search(self, question: str, collection: str | None, *, count: int = PASSAGES, source: str) -> list[Hit]:
        """The chunks nearest to a question, best first.

        Raises:
            InvalidInputError: no such collection.
            UnavailableError: the index is still being opened.
        """
        if collection is not None and collection not in self._documents.collections():
            raise InvalidInputError(f"There is no collection {collection!r}.", param="documents")
        ready = {d.id: d for d in self._documents.find(collection) if d.state == "ready"}
        if not ready:
            return []
        vector = self._embeddings.embed([question], source=source).vectors[0]
        for _ in range(100):  # the index opens once the embedding model is known
            if self._index.opened:
                break
            time.sleep(0.1)
        else:
            raise UnavailableError("The search index is still being opened; retry in a moment.")
        hits = []
        for chunk_id, score in self._index.query(vector, count, list(ready)):
            found = self._documents.chunk(chunk_id)
            if found is not None:
                chunk, document = found
                hits.append(Hit(chunk.id, document.id, document.name, chunk.position, chunk.text, score))
        return hits

    def ground(
        self, question: str, history: list[dict[str, str]], collection: str | None, system: str, *, source: str
    ) -> Grounding:
        """Messages that ask a question over the passages found for it, and their citations.

        The oldest turns, then the least similar passages are left out until the prompt fits the context.

        Raises:
            InvalidInputError: there is nothing to answer from.
        """
        hits = self.search(question, collection, source=source)
        if not hits:
            raise InvalidInputError(
                "There is no ready document to answer from. Upload one, or switch off answering from documents."
            )
        hits = [hit for hit in hits if hit.score >= CUT_OFF * hits[0].score]
        room = self._context() - ANSWER_RESERVE
        while True:
            messages, citations = self._layout(question, history, hits, system)
            if len(self._text().encode_chat(messages)) <= room or (len(hits) == 1 and not history):
                return Grounding(messages, citations)
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
