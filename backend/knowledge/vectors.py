"""The vector index: Chroma, an index that can be thrown away. Knows ids and vectors, not the database.

Chroma's traps are kept in here: embeddings are always passed in, at most 5,461 rows a call, rows come back in storage
order, one process only, and a high `sync_threshold`, without which a kill can leave the index unreadable.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROWS = 2000
MOST_NAMED = 10_000
"""Documents among which one query searches; Chroma hands each to SQLite, which takes 32,766."""


class VectorIndex:
    """Chunk ids and vectors of every chunk that can be found."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.RLock()
        self._collection: Any = None
        self._client: Any = None

    def open(self, name: str) -> None:
        """Open the index of an embedding model, named by its fingerprint.

        Raises:
            Exception: Chroma cannot read its files; `throw_away` and open again.
        """
        import chromadb
        from chromadb.config import Settings as ChromaSettings

        with self._lock:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._client = chromadb.PersistentClient(
                path=str(self._folder), settings=ChromaSettings(anonymized_telemetry=False)
            )
            self._collection = self._client.get_or_create_collection(
                f"chunks-{name}",
                configuration={"hnsw": {"space": "cosine", "sync_threshold": 1_000_000, "batch_size": 1000}},
                embedding_function=None,
            )

    def forget_others(self) -> None:
        """Delete what was kept for other embedding models."""
        with self._lock:
            for collection in self._client.list_collections():
                if collection.name != self._collection.name:
                    self._client.delete_collection(collection.name)

    def throw_away(self) -> None:
        """Delete everything."""
        with self._lock:
            self._collection = self._client = None
            import chromadb.api.shared_system_client as shared

            shared.SharedSystemClient.clear_system_cache()
            shutil.rmtree(self._folder, ignore_errors=True)

    def ids(self) -> set[str]:
        """Every chunk in it."""
        with self._lock:
            return set(self._collection.get(include=[])["ids"])

    def add(self, ids: list[str], vectors: np.ndarray, documents: list[str]) -> None:
        """Insert or replace chunks."""
        with self._lock:
            for start in range(0, len(ids), ROWS):
                end = start + ROWS
                self._collection.upsert(
                    ids=ids[start:end],
                    embeddings=vectors[start:end],
                    metadatas=[{"document": document} for document in documents[start:end]],
                )

    def remove(self, ids: Iterable[str]) -> None:
        """Delete chunks; unknown ids are ignored."""
        with self._lock:
            for part in parts(list(ids), ROWS):
                self._collection.delete(ids=part)

    def query(self, vector: np.ndarray, count: int, documents: list[str] | None = None) -> list[tuple[str, float]]:
        """The nearest chunks (of these documents, or of all): (chunk id, cosine similarity), best first."""
        if documents is None:
            return self.query_many(vector[None], count)[0]
        found = [hit for some in parts(documents, MOST_NAMED) for hit in self.query_many(vector[None], count, some)[0]]
        return sorted(found, key=lambda hit: -hit[1])[:count]

    def query_many(
        self, vectors: np.ndarray, count: int, documents: list[str] | None = None
    ) -> list[list[tuple[str, float]]]:
        """`query` for several vectors [queries, dimension]."""
        with self._lock:
            total = self._collection.count()
            if not total:
                return [[] for _ in vectors]
            answer = self._collection.query(
                query_embeddings=list(vectors),
                n_results=min(count, total),
                where=None if documents is None else {"document": {"$in": documents}},
                include=["distances"],
            )
        return [
            [(chunk, 1.0 - float(distance)) for chunk, distance in zip(ids, distances, strict=True)]
            for ids, distances in zip(answer["ids"], answer["distances"], strict=True)
        ]

    @property
    def opened(self) -> bool:
        """Whether it can be asked."""
        return self._collection is not None


def parts(items: list[str], size: int) -> Iterator[list[str]]:
    """Cut a list into pieces of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
