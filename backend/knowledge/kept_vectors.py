"""Vectors in the database, by the key of everything that determines them. Knows neither the engine nor texts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from sqlalchemy import delete, insert, update
from sqlmodel import Session, col, func, select

from backend.store.database import Database
from backend.store.tables.embeddings import Embedding

LOOKUP = 500
"""Keys per query, below SQLite's limit on parameters."""


@dataclass(frozen=True)
class VectorStatistics:
    """Entries, how often one was used again, the tokens that the model did not read again, and bytes."""

    entries: int
    hits: int
    tokens_saved: int
    bytes: int


@dataclass(frozen=True)
class ModelVectors:
    """What is kept of one model at one dimension."""

    model: str
    dimension: int
    entries: int
    hits: int
    bytes: int


class KeptVectors:
    """Finds vectors, keeps new ones and counts their uses."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, keys: list[str]) -> dict[str, np.ndarray]:
        """Those that are kept, by key."""
        found: dict[str, np.ndarray] = {}
        with self._database.session() as session:
            for start in range(0, len(keys), LOOKUP):
                part = keys[start : start + LOOKUP]
                for key, vector in session.exec(
                    select(Embedding.key, Embedding.vector).where(col(Embedding.key).in_(part))
                ):
                    found[key] = np.frombuffer(vector, dtype="<f4")
        return found

    def keep(self, model: str, keys: list[str], vectors: np.ndarray, tokens: list[int]) -> None:
        """Keep vectors of a model [keys, dimension], and how many tokens each stands for."""
        known = self.find(keys)  # another server on the same database may have been as fast
        rows = [
            {
                "key": key, "model": model, "dimension": len(vector), "tokens": count, "hits": 0,
                "created": time.time(), "vector": np.ascontiguousarray(vector, dtype="<f4").tobytes(),
            }
            for key, vector, count in zip(keys, vectors, tokens, strict=True) if key not in known
        ]  # fmt: skip
        if rows:
            with self._database.session() as session:
                session.connection().execute(insert(Embedding), rows)

    def count_hits(self, keys: list[str]) -> None:
        """Note in the background that vectors were used again, each as often as its key comes."""
        if keys:
            self._database.writer.submit(lambda session: _count_hits(session, keys))

    def forget(self, kept: Iterable[str], *, before: float) -> int:
        """Delete every vector made before a time, but for these keys; returns how many."""
        used = set(kept)
        with self._database.session() as session:
            keys = session.exec(select(Embedding.key).where(Embedding.created < before)).all()
        unused = [key for key in keys if key not in used]
        for start in range(0, len(unused), LOOKUP):
            with self._database.session() as session:
                session.connection().execute(
                    delete(Embedding).where(col(Embedding.key).in_(unused[start : start + LOOKUP]))
                )
        return len(unused)

    def statistics(self) -> VectorStatistics:
        """Of all vectors."""
        self._database.writer.flush()
        with self._database.session() as session:
            row = session.exec(
                select(
                    func.count(col(Embedding.key)),
                    func.coalesce(func.sum(Embedding.hits), 0),
                    func.coalesce(func.sum(Embedding.hits * Embedding.tokens), 0),
                    func.coalesce(func.sum(func.length(Embedding.vector)), 0),
                )
            ).one()
        return VectorStatistics(*map(int, row))

    def by_model(self) -> list[ModelVectors]:
        """Of each model and dimension that vectors were kept of."""
        with self._database.session() as session:
            rows = session.exec(
                select(  # type: ignore[call-overload]
                    Embedding.model,
                    Embedding.dimension,
                    func.count(col(Embedding.key)),
                    func.sum(Embedding.hits),
                    func.sum(func.length(Embedding.vector)),
                ).group_by(Embedding.model, col(Embedding.dimension))
            ).all()
        return [
            ModelVectors(model, dimension, int(entries), int(hits), int(size))
            for model, dimension, entries, hits, size in rows
        ]


def _count_hits(session: Session, keys: list[str]) -> None:
    by_count: dict[int, list[str]] = {}
    for key, count in Counter(keys).items():
        by_count.setdefault(count, []).append(key)
    for count, some in by_count.items():
        for start in range(0, len(some), LOOKUP):
            part = col(Embedding.key).in_(some[start : start + LOOKUP])
            session.connection().execute(update(Embedding).where(part).values(hits=col(Embedding.hits) + count))
