"""The vector index: Chroma, an index that can be thrown away. The truth is in the database.

Chroma's traps are kept in here: embeddings are always passed in, at most 5,461 rows a call, rows come back in storage
order, one process only, and a high `sync_threshold`, without which a kill can leave the index unreadable.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sqlmodel import col, select

from backend.knowledge.embeddings import EmbeddingService
from backend.store.database import Database
from backend.store.tables import Chunk, Document, Embedding

log = logging.getLogger(__name__)

ROWS = 2000


class VectorIndex:
    """Chunk ids and vectors of every ready document."""

    def __init__(self, folder: Path, database: Database, embeddings: EmbeddingService) -> None:
        self._folder, self._database, self._embeddings = folder, database, embeddings
        self._lock = threading.RLock()
        self._collection: Any = None
        self._client: Any = None

    def open(self, name: str, report: Callable[[str], None] = lambda _: None) -> None:
        """Open the index of an embedding model (named by its fingerprint); rebuild it where it is not as it should be.

        Rebuilding reads vectors from the database and computes none.
        """
        with self._lock:
            try:
                self._connect(name)
                wanted, there = set(self._ready_chunks()), set(self._ids())
                if wanted == there:
                    return
                log.info("the index has %d chunks, the database %d", len(there), len(wanted))
                report("The search index is being brought up to date.")
                stale = sorted(there - wanted)
                if stale:
                    self.remove(stale)
                self._add_from_database(sorted(wanted - there))
            except Exception:
                log.exception("the index cannot be read; building it again")
                report("The search index is being rebuilt.")
                self._throw_away()
                self._connect(name)
                self._add_from_database(sorted(self._ready_chunks()))

    def _connect(self, name: str) -> None:
        import chromadb
        from chromadb.config import Settings as ChromaSettings

        self._folder.mkdir(parents=True, exist_ok=True)
        self._client = chromadb.PersistentClient(
            path=str(self._folder), settings=ChromaSettings(anonymized_telemetry=False)
        )
        self._collection = self._client.get_or_create_collection(
            f"chunks-{name}",
            configuration={"hnsw": {"space": "cosine", "sync_threshold": 1_000_000, "batch_size": 1000}},
            embedding_function=None,
        )

    def _throw_away(self) -> None:
        self._collection = self._client = None
        import chromadb.api.shared_system_client as shared

        shared.SharedSystemClient.clear_system_cache()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _ids(self) -> list[str]:
        ids: list[str] = self._collection.get(include=[])["ids"]
        return ids

    def _ready_chunks(self) -> list[str]:
        with self._database.session() as session:
            query = select(Chunk.id).join(Document).where(Document.state == "ready")
            return list(session.exec(query).all())

    def _add_from_database(self, ids: list[str]) -> None:
        for part in _parts(ids, 400):
            with self._database.session() as session:
                chunks = session.exec(select(Chunk).where(col(Chunk.id).in_(part))).all()
                keys = {chunk.id: self._embeddings.key(chunk.text) for chunk in chunks}
                rows = session.exec(select(Embedding).where(col(Embedding.key).in_(set(keys.values())))).all()
            vectors = {row.key: np.frombuffer(row.vector, dtype="<f4") for row in rows}
            known = [chunk for chunk in chunks if keys[chunk.id] in vectors]
            if len(known) < len(chunks):  # embedded by another model, or with the cache off: compute these
                rest = [chunk for chunk in chunks if keys[chunk.id] not in vectors]
                fresh = self._embeddings.embed([c.text for c in rest], source="ingest", path="batch")
                vectors.update({keys[c.id]: v for c, v in zip(rest, fresh.vectors, strict=True)})
            if chunks:
                self.add(
                    [c.id for c in chunks],
                    np.stack([vectors[keys[c.id]] for c in chunks]),
                    [c.document_id for c in chunks],
                )

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

    def remove(self, ids: list[str]) -> None:
        """Delete chunks; unknown ids are ignored."""
        with self._lock:
            for part in _parts(ids, ROWS):
                self._collection.delete(ids=part)

    def query(self, vector: np.ndarray, count: int, documents: list[str]) -> list[tuple[str, float]]:
        """The nearest chunks of these documents: (chunk id, cosine similarity), best first."""
        if not documents or self._collection is None:
            return []
        with self._lock:
            total = self._collection.count()
            if not total:
                return []
            answer = self._collection.query(
                query_embeddings=[vector],
                n_results=min(count, total),
                where={"document": {"$in": documents}},
                include=["distances"],
            )
        return [
            (chunk, 1.0 - float(distance))
            for chunk, distance in zip(answer["ids"][0], answer["distances"][0], strict=True)
        ]

    @property
    def opened(self) -> bool:
        """Whether it can be asked."""
        return self._collection is not None


def _parts(items: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
