"""What retrieval makes of a question: messages that quote passages, laid out so that prompts begin alike, and fit.

Fixed instructions come first, then the passages in the order of their documents, then the question. Citations name only
chunks that are really in the prompt. Knows neither documents nor the index: it is given what was found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backend.settings import ROOT
from backend.store.citation import Citation

INSTRUCTIONS = (ROOT / "data" / "prompts" / "answer_from_documents.md").read_text().strip()
ANSWER_RESERVE = 400
"""Tokens of the context kept for an answer whose length was not said."""
MARGIN = 8
"""Tokens kept free beside prompt and answer."""

Turns = list[dict[str, str]]


@dataclass(frozen=True)
class Passage:
    """A chunk that may be quoted: where it is from, its text and its score."""

    chunk_id: str
    document_id: str
    document: str
    position: int
    text: str
    score: float


@dataclass(frozen=True)
class Grounding:
    """Messages with the passages that answer a question, and the citations that are really in them.

    Attributes:
        passages: the texts quoted.
        corpus: what was searched: the index's version, and the documents where they are not all.
        reply: what to say instead of asking the model, where nothing was found.
        left_out_turns, left_out_passages: what did not fit the context beside the answer.
        search_seconds: what finding the passages took.
    """

    messages: Turns
    citations: list[Citation]
    passages: tuple[str, ...] = ()
    corpus: str = ""
    reply: str | None = None
    left_out_turns: int = 0
    left_out_passages: int = 0
    search_seconds: float = 0.0

    @property
    def notice(self) -> str:
        """What was left out, in a sentence; empty where everything fits."""
        parts = [
            f"{count} {what}{'s' if count > 1 else ''}"
            for count, what in ((self.left_out_turns, "earlier turn"), (self.left_out_passages, "passage"))
            if count
        ]
        return f"Left out, so that the answer fits the context: {' and '.join(parts)}." if parts else ""


def fitted(
    question: str,
    history: Turns,
    passages: Sequence[Passage],
    system: str,
    *,
    count: Callable[[Turns], int],
    context: int,
    answer: int | None,
    corpus: str = "",
) -> Grounding:
    """Lay out a prompt that leaves room for its answer.

    The oldest turns are left out first, then the least similar passages; the question and the best passage stay, even
    where they do not fit, for whoever starts the answer to refuse with the figures.

    Args:
        question: as it was asked.
        history: earlier turns, oldest first.
        passages: best first.
        system: the user's own system prompt, put before the instructions.
        count: tokens of messages.
        context: tokens that prompt and answer may have together.
        answer: most tokens of the answer (None: `ANSWER_RESERVE`).
        corpus: see `Grounding`.
    """
    room = context - (ANSWER_RESERVE if answer is None else answer + MARGIN)
    turns, quoted = history, list(passages)
    while True:
        messages, citations = _layout(question, turns, quoted, system)
        if (not turns and len(quoted) <= 1) or count(messages) <= room:
            return Grounding(
                messages, citations, passages=tuple(citation["text"] for citation in citations),
                corpus=corpus, left_out_turns=len(history) - len(turns),
                left_out_passages=len(passages) - len(quoted),
            )  # fmt: skip
        if turns:
            turns = turns[1:]
            while turns and turns[0]["role"] != "user":  # an answer without its question says nothing
                turns = turns[1:]
        else:
            quoted = quoted[:-1]


def _layout(
    question: str, history: Turns, passages: Sequence[Passage], system: str
) -> tuple[Turns, list[Citation]]:
    ordered = sorted(passages, key=lambda passage: (passage.document_id, passage.position))
    citations: list[Citation] = []
    quoted = []
    for number, passage in enumerate(ordered, start=1):
        quoted.append(f"[{number}] {passage.document}\n{passage.text}")
        citations.append(
            {
                "number": number,
                "chunk_id": passage.chunk_id,
                "document_id": passage.document_id,
                "document": passage.document,
                "position": passage.position,
                "score": round(passage.score, 4),
                "text": passage.text,
            }
        )
    instructions = f"{system.strip()}\n\n{INSTRUCTIONS}" if system.strip() else INSTRUCTIONS
    messages = [
        {"role": "system", "content": instructions},
        *history,
        {"role": "user", "content": "Passages:\n\n" + "\n\n".join(quoted) + f"\n\nQuestion: {question}"},
    ]
    return messages, citations
