"""What makes chunks findable: vectors, keywords and the graph, all of which can be thrown away.

The truth is in the database. At start each is compared with it and brought up to date, or built again where it is
lost or damaged, without computing an embedding.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import numpy as np
from sqlmodel import col, select

from backend.knowledge.embeddings import EmbeddingService
from backend.knowledge.graph import ChunkGraph, GraphChunk
from backend.knowledge.keywords import KeywordIndex
from backend.knowledge.search import Found, search
from backend.knowledge.vectors import VectorIndex, parts
from backend.store.database import Database
from backend.store.failures import named_failure
from backend.store.tables.documents import Chunk, Document, DocumentState
from backend.store.tables.embeddings import Embedding

log = logging.getLogger(__name__)

BATCH = 400
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds between two tries to open it, doubled each time up to the most."""


class _Part(Protocol):
    def remove(self, ids: list[str]) -> None: ...


class KnowledgeIndex:
    """Vectors, keywords and graph of every chunk of every document's version in force."""

    def __init__(self, folder: Path, database: Database, embeddings: EmbeddingService) -> None:
        self._folder, self._database, self._embeddings = folder, database, embeddings
        self.vectors = VectorIndex(folder / "chroma")
        self.keywords = KeywordIndex(folder / "keywords.sqlite3")
        self._graph: ChunkGraph | None = None
        self._lock = threading.RLock()
        self._opened = threading.Event()
        self._problem = ""

    def keep_opening(
        self, name: str, dimension: int, report: Callable[[str], None], pause: Callable[[float], bool]
    ) -> None:
        """Open everything, and where that fails (a full disk, say) again and again until it does.

        Args:
            name: see `open`.
            dimension: see `open`.
            report: see `open`.
            pause: waits so many seconds; True: give up, the server is stopping.
        """
        seconds = FIRST_PAUSE
        while True:
            try:
                self.open(name, dimension, report)
                self._problem = ""
                return
            except Exception as error:
                log.exception("the search index could not be opened")
                named = named_failure(error)
                why = named.message if named else "See the log."
                self._problem = f"The search index could not be opened and is tried again. {why}"
                report(self._problem)
            if pause(seconds):
                return
            seconds = min(2 * seconds, LONGEST_PAUSE)

    @property
    def problem(self) -> str:
        """Why it is not open, where it should be."""
        return self._problem

    def open(self, name: str, dimension: int, report: Callable[[str], None] = lambda _: None) -> None:
        """Open everything for an embedding model (named by its fingerprint); mend what is not as it should be."""
        with self._lock:
            try:
                self.vectors.open(name)
                known = self.vectors.ids()
            except Exception:
                log.exception("the vector index cannot be read; building it again")
                self.vectors.throw_away()
                self.vectors.open(name)
                known = set()
            wanted = set(self._live_chunks())

            def about(what: str) -> Callable[[int, int], None]:
                return lambda done, total: report(f"{what} is being brought up to date: {done:,} of {total:,} chunks.")

            self._mend(self.vectors, known, wanted, self._add_vectors, about("The vector index"))
            self.keywords.open()
            self._mend(self.keywords, self.keywords.ids(), wanted, self._add_keywords, about("The keyword index"))
            graph_file = self._folder / f"graph-{name}.npz"
            self._graph = ChunkGraph(
                graph_file, dimension, self._mentioning, self.vectors.query_many
            )
            self._graph.load()
            there = set(self._graph.node)
            self._mend(self._graph, there, wanted, self._graph.add, about("The graph"))
            if there != wanted:
                self._graph.save()
            self.vectors.forget_others()
            for file in set(self._folder.glob("graph-*.npz")) - {graph_file}:
                file.unlink()
            self._opened.set()

    def _mend(
        self,
        part: _Part,
        known: set[str],
        wanted: set[str],
        add: Callable[[list[GraphChunk]], None],
        report: Callable[[int, int], None],
    ) -> None:
        if known - wanted:
            part.remove(sorted(known - wanted))
        missing = sorted(wanted - known)
        for done, some in enumerate(parts(missing, BATCH)):
            report(done * BATCH, len(missing))
            add(self._read(some))

    def _live_chunks(self) -> list[str]:
        with self._database.session() as session:
            in_force = (Chunk.build == Document.build, Document.state != DocumentState.DELETING)
            query = select(Chunk.id).join(Document).where(*in_force)
            return list(session.exec(query).all())

    def _read(self, ids: list[str]) -> list[GraphChunk]:
        """Chunks with their vectors, from the database; computed only where the database has none."""
        with self._database.session() as session:
            rows = session.exec(
                select(Chunk, Document.name)
                .join(Document)
                .where(col(Chunk.id).in_(ids))
                .order_by(Chunk.document_id, col(Chunk.position))
            ).all()
            keys = {chunk.id: self._embeddings.key(chunk.text) for chunk, _ in rows}
            kept = session.exec(select(Embedding).where(col(Embedding.key).in_(set(keys.values())))).all()
        vectors = {row.key: np.frombuffer(row.vector, dtype="<f4") for row in kept}
        rest = [chunk for chunk, _ in rows if keys[chunk.id] not in vectors]
        if rest:  # embedded by another model, or with the cache off
            fresh = self._embeddings.embed([c.text for c in rest], source="ingest", path="batch")
            vectors.update({keys[c.id]: v for c, v in zip(rest, fresh.vectors, strict=True)})
        return [
            GraphChunk(chunk.id, chunk.document_id, name, chunk.position, chunk.text, vectors[keys[chunk.id]])
            for chunk, name in rows
        ]

    def _add_vectors(self, chunks: list[GraphChunk]) -> None:
        if chunks:
            self.vectors.add(
                [c.id for c in chunks], np.stack([c.vector for c in chunks]), [c.document_id for c in chunks]
            )

    def _add_keywords(self, chunks: list[GraphChunk]) -> None:
        self.keywords.add((c.id, c.document, c.text) for c in chunks)

    def _mentioning(self, form: tuple[str, ...], most: int) -> list[tuple[str, str]]:
        return self.keywords.phrase(form, most)

    # ---- changes -------------------------------------------------------------------------------------------------

    @property
    def graph(self) -> ChunkGraph:
        """The graph; the index must be open."""
        if self._graph is None:
            raise RuntimeError("the index is not open")
        return self._graph

    def add(self, chunks: list[GraphChunk], *, replacing: Iterable[str] = ()) -> None:
        """Make chunks findable; `replacing` are those that will be removed in favour of these."""
        with self._lock:
            self._add_vectors(chunks)
            self._add_keywords(chunks)
            self.graph.add(chunks, replacing=replacing)

    def remove(self, ids: list[str]) -> None:
        """Make chunks unfindable; unknown ids are ignored."""
        with self._lock:
            self.graph.remove(ids)
            self.keywords.remove(ids)
            self.vectors.remove(ids)

    def save(self) -> None:
        """Keep the graph, so that the next start need not make it."""
        if self._graph is not None:
            self._graph.save()

    def close(self) -> None:
        """Keep what can be kept."""
        with self._lock:
            if self.opened:
                self.save()
            self.keywords.close()

    def search(self, question: str, vector: np.ndarray, *, mode: str, documents: set[str] | None) -> Found:
        """See `search.search`."""
        return search(
            question, vector, self.graph, self.vectors, self.keywords, mode=mode, documents=documents
        )

    @property
    def opened(self) -> bool:
        """Whether it can be asked."""
        return self._opened.is_set()

    def wait_opened(self, timeout: float) -> bool:
        """Wait until it can be asked."""
        return self._opened.wait(timeout)
