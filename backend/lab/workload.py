"""The document workload: people ask questions about the sample documents, some of them again."""

from __future__ import annotations

import json
from dataclasses import dataclass

from backend.knowledge.grounding import INSTRUCTIONS
from backend.models.text import TextModel
from backend.settings import ROOT, SAMPLES

QUESTIONS = ROOT / "data" / "lab" / "questions.json"


@dataclass(frozen=True)
class Case:
    """A prompt as token ids, and the answer a person would give."""

    prompt: list[int]
    reference: str


def document_questions(text: TextModel, repeat: int) -> list[Case]:
    """Every question over its whole document, `repeat` times over; equal beginnings, as real traffic has them."""
    answers = [row["answer"] for row in json.loads(QUESTIONS.read_text())]
    prompts = [text.encode_chat(messages) for messages in question_messages()]
    return [Case(*case) for case in zip(prompts, answers, strict=True)] * repeat


def question_messages() -> list[list[dict[str, str]]]:
    """Every question over its whole document, as messages of a chat."""
    out = []
    for row in json.loads(QUESTIONS.read_text()):
        document = (SAMPLES / row["document"]).read_text()
        question = f"Question: {row['question']}"
        out.append([
            {"role": "system", "content": INSTRUCTIONS},
            {"role": "user", "content": f"Passages:\n\n[1] {row['document']}\n{document}\n\n{question}"},
        ])  # fmt: skip
    return out
