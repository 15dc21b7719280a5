"""Answers that are given again: to the same prompt, exactly; to a like question, where that is switched on.

Exact: the key covers every token of the rendered prompt, the parameters, the model in force and what was searched,
and only answers that would come out the same again are kept (greedy, or with a seed). Semantic: single questions only,
by the cosine of their embeddings, and never where the two differ in a number, a name or a negation.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from array import array
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sqlalchemy import delete, update
from sqlmodel import Session, col, func, select

from backend.engine.messages import SamplingParams
from backend.generation.likeness import alike
from backend.store.database import Database
from backend.store.tables.answers import Answer

MOST_ANSWERS = 10_000
TRIM_EVERY = 100


def answer_key(
    prompt: list[int],
    sampling: SamplingParams,
    stop: tuple[str, ...],
    *,
    tenant: str,
    variant_key: str,
    corpus: str,
) -> str:
    """The exact cache's key: of everything that decides an answer, and of whose it is."""
    rest = json.dumps([asdict(sampling), stop, f"{tenant}:{variant_key}:{corpus}"], sort_keys=True)
    return hashlib.sha256(array("q", prompt).tobytes() + rest.encode()).hexdigest()


def likeness_scope(*parts: Any) -> str:
    """What two questions must have in common to share an answer."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def repeatable(sampling: SamplingParams) -> bool:
    """Whether the same request would give the same tokens again."""
    return sampling.temperature == 0 or sampling.seed is not None


@dataclass(frozen=True)
class AnswerStatistics:
    """Entries, how often one was given again, and the engine's seconds that this saved."""

    entries: int
    hits: int
    seconds_saved: float


Embed = Callable[[list[str], str, str, str], np.ndarray]
"""(questions, source, path, key's id) → float32 [questions, dimension], each of length 1."""


class AnswerCache:
    """Stored answers; the least recently used leave beyond 10,000.

    Args:
        database: where they are kept.
        embed: how questions become comparable.
    """

    def __init__(self, database: Database, embed: Embed) -> None:
        self._database, self._embed = database, embed
        self._lock = threading.Lock()
        self._since_trim = 0

    def get(self, key: str) -> Answer | None:
        """The answer to exactly this."""
        with self._database.session() as session:
            answer = session.get(Answer, key)
        if answer is not None:
            self._database.writer.submit(lambda session: _touch(session, key))
        return answer

    def like(
        self, question: str, likeness_scope: str, threshold: float, *, source: str, path: str, key_id: str = ""
    ) -> tuple[Answer, float] | None:
        """The answer to the likest question of this scope, and how like it is; None below the threshold.

        Args:
            question: what is asked now.
            likeness_scope: what both must have in common.
            threshold: cosine from which two questions ask for the same.
            source: who asks, for the ledger.
            path: "realtime" or "batch", on which the question is embedded.
            key_id: of the key that asks, for the ledger.
        """
        with self._database.session() as session:
            rows = session.exec(
                select(Answer.key, Answer.question, Answer.vector).where(
                    Answer.likeness_scope == likeness_scope, col(Answer.vector).is_not(None)
                )
            ).all()
        if not rows:
            return None
        vector = self._embed([question], source, path, key_id)[0]
        scores = np.stack([np.frombuffer(row[2], dtype="<f4") for row in rows if row[2]]) @ vector
        for at in np.argsort(-scores):
            if scores[at] < threshold:
                return None
            if alike(question, rows[at][1]):
                answer = self.get(rows[at][0])
                return (answer, float(scores[at])) if answer else None
        return None

    def put(self, answer: Answer, *, comparable: bool, source: str, path: str, key_id: str = "") -> None:
        """Keep an answer; returns at once where nothing has to be embedded.

        Args:
            answer: what to keep; with a scope and a question it can become one that others are like.
            comparable: make it one, by embedding its question; costs the embedding model's time.
            source: who asked, for the ledger.
            path: "realtime" or "batch", on which the question is embedded.
            key_id: of the key that asked, for the ledger.
        """
        row = answer.model_dump()
        if comparable and answer.likeness_scope and answer.question:
            vector = self._embed([answer.question], source, path, key_id)[0]
            row["vector"] = np.ascontiguousarray(vector, dtype="<f4").tobytes()
        with self._lock:
            self._since_trim += 1
            due = self._since_trim >= TRIM_EVERY
            self._since_trim = 0 if due else self._since_trim

        def write(session: Session) -> None:
            session.merge(Answer(**row))
            if due:
                session.flush()
                kept = select(Answer.key).order_by(col(Answer.used).desc()).limit(MOST_ANSWERS)
                session.connection().execute(delete(Answer).where(col(Answer.key).not_in(kept)))

        self._database.writer.submit(write)

    def clear(self) -> None:
        """Forget every answer."""
        with self._database.session() as session:
            session.connection().execute(delete(Answer))

    def statistics(self) -> AnswerStatistics:
        """Of all answers."""
        with self._database.session() as session:
            count, hits, seconds = session.exec(
                select(
                    func.count(col(Answer.key)),
                    func.coalesce(func.sum(Answer.hits), 0),
                    func.coalesce(func.sum(Answer.hits * Answer.compute_seconds), 0.0),
                )
            ).one()
        return AnswerStatistics(int(count), int(hits), float(seconds))


def _touch(session: Session, key: str) -> None:
    session.connection().execute(
        update(Answer).where(col(Answer.key) == key).values(hits=Answer.hits + 1, used=time.time())
    )
