"""One build's life: a document's text, cut, embedded and stored beside the build in force, whose place it takes.

The change comes in one commit; before it nothing of a build is findable, after it nothing of the one before.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import insert, update
from sqlmodel import col, func, select

from backend.engine.messages import BATCH
from backend.errors import DocumentError, UnavailableError
from backend.files.blobs import Blobs
from backend.knowledge.chunk import Chunker, Piece
from backend.knowledge.documents import PENDING, Documents
from backend.knowledge.embeddings import EmbeddingService
from backend.knowledge.graph import GraphChunk
from backend.knowledge.index import KnowledgeIndex
from backend.knowledge.index_version import IndexVersion
from backend.knowledge.parse import parse
from backend.knowledge.removal import Removal
from backend.knowledge.signals import CancelToken
from backend.models.texts import Texts
from backend.settings import Settings
from backend.store.database import Database
from backend.store.ids import new_id
from backend.store.tables.documents import Chunk, Document, DocumentState, DocumentVersion

SLICE = 256
"""Chunks embedded, stored and indexed at a time: bounds memory, and how long a cancellation waits."""


@dataclass(frozen=True)
class Rate:
    """How reading a document goes: chunks done and in all, chunks per second, seconds left."""

    done: int
    total: int
    per_second: float
    left: float


class Builder:
    """Makes builds, one at a time.

    Attributes:
        removal: takes away what a build replaced, and what was deleted.
        index_version: grows with every build in force and every removal.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        blobs: Blobs,
        documents: Documents,
        embeddings: EmbeddingService,
        index: KnowledgeIndex,
        texts: Texts,
    ) -> None:
        self._settings, self._database, self._blobs = settings, database, blobs
        self._documents, self._embeddings, self._index = documents, embeddings, index
        self._texts = texts
        self.index_version = IndexVersion(database)
        self.removal = Removal(database, blobs, documents, index, self.index_version)
        self._rates: dict[str, Rate] = {}
        self._storer = ThreadPoolExecutor(1, thread_name_prefix="store")

    def close(self) -> None:
        """End the thread that stores."""
        self._storer.shutdown()

    def rate(self, document_id: str) -> Rate | None:
        """How reading a document goes; None where it is not being read."""
        return self._rates.get(document_id)

    def version(self) -> str:
        """Names how chunks are cut and embedded now."""
        return f"{self._chunker().version}:{self._embeddings.fingerprint[:16]}"

    def _chunker(self) -> Chunker:
        return Chunker(self._texts.embedding_tokenizer(), self._settings.chunk_tokens)

    # ---- a build -------------------------------------------------------------------------------------------------

    def read(self, document: Document, token: CancelToken) -> None:
        """Read a document and let it answer.

        Raises:
            CancelledError: the token was; nothing of the build is left.
            DocumentError: it cannot be read.
            UnavailableError: the engine or the storage is not there now; nothing of the document is lost.
        """
        started = time.monotonic()
        token.check()
        if not self._documents.update(document.id, only_from=PENDING, state=DocumentState.PARSING, progress=0.02):
            return
        pieces = self._pieces(document, token)
        self._documents.update(
            document.id, only_from=PENDING, state=DocumentState.EMBEDDING, progress=0.05, chunk_count=len(pieces)
        )
        build, old = self._new_build(document.id), self._documents.chunk_ids(document.id)
        added: list[str] = []
        in_force = False
        try:
            embedded, reused = self._embed(document, build, pieces, old, added, token)
            token.check()
            seconds = time.monotonic() - started
            in_force = self._enforce(document, build, len(pieces), embedded, reused, seconds)
        finally:
            self._rates.pop(document.id, None)
            # Deleted, cancelled or replaced by a newer upload meanwhile, it is this build that goes.
            if in_force:
                self.removal.leave(document.id, None, old)
            else:
                self.removal.leave(document.id, build, added)
                self.removal.tidy()
        if in_force:
            self.removal.tidy()
            self.removal.drop_old_versions(document.id)

    def _pieces(self, document: Document, token: CancelToken) -> list[Piece]:
        text = parse(
            self._blobs.path(document.sha256), document.name, timeout=self._settings.parse_timeout_s,
            most_bytes=self._settings.max_text_mb << 20, wanted=token.check,
        )  # fmt: skip
        deadline = time.monotonic() + self._settings.cut_timeout_s

        def wanted() -> None:
            token.check()
            if time.monotonic() > deadline:
                raise DocumentError(
                    f"{document.name} could not be cut into chunks within {self._settings.cut_timeout_s:g} s."
                )

        pieces = self._chunker().split(text, document.name, wanted)
        if not pieces:
            raise DocumentError(f"No text was found in {document.name}.")
        return pieces

    def _embed(
        self, document: Document, build: int, pieces: list[Piece], old: list[str], added: list[str], token: CancelToken
    ) -> tuple[int, int]:
        """Embed and store a build, slice by slice; returns embeddings computed and known. `added` grows with it."""
        embedded = reused = 0
        storing: Future[None] | None = None  # of the slice before, while the next one is embedded
        started = time.monotonic()
        try:
            for start in range(0, len(pieces), SLICE):
                part = pieces[start : start + SLICE]

                def progress(done: int, _: int, start: int = start) -> None:
                    token.check()
                    seconds = time.monotonic() - started
                    total = start + done
                    speed = total / seconds if seconds else 0.0
                    left = (len(pieces) - total) / speed if speed else 0.0
                    self._rates[document.id] = Rate(total, len(pieces), speed, left)

                result = self._embeddings.embed(
                    [piece.text for piece in part], source="ingest", path=BATCH, progress=progress
                )
                embedded += result.computed
                reused += result.reused
                if storing is not None:
                    storing.result()
                chunks = self._chunks(document, build, start, part)
                added += [chunk["id"] for chunk in chunks]
                storing = self._storer.submit(self._store, document, chunks, result.vectors, old)
                progress(len(part), 0)
                self._documents.update(
                    document.id, only_from=PENDING, progress=0.05 + 0.95 * (start + len(part)) / len(pieces)
                )
            if storing is not None:
                storing.result()
        finally:
            if storing is not None:
                wait([storing])
        return embedded, reused

    def _new_build(self, document_id: str) -> int:
        with self._database.session() as session:
            last = session.exec(select(func.max(Chunk.build)).where(Chunk.document_id == document_id)).one()
            kept = session.exec(
                select(func.max(DocumentVersion.build)).where(DocumentVersion.document_id == document_id)
            ).one()
        return max(last or 0, kept or 0) + 1

    @property
    def missing(self) -> UnavailableError | None:
        """See `EmbeddingService.missing`."""
        return self._embeddings.missing

    def _chunks(self, document: Document, build: int, start: int, part: list[Piece]) -> list[dict[str, Any]]:
        """Rows of the chunk table."""
        version = self.version()
        return [
            {
                "id": new_id(), "document_id": document.id, "build": build, "position": start + i, "text": piece.text,
                "text_hash": piece.text_hash, "tokens": piece.tokens, "chunker": version,
            }
            for i, piece in enumerate(part)
        ]  # fmt: skip

    def _store(self, document: Document, chunks: list[dict[str, Any]], vectors: np.ndarray, old: list[str]) -> None:
        with self._database.session() as session:
            session.connection().execute(insert(Chunk), chunks)
        self._index.add(
            [
                GraphChunk(c["id"], document.id, document.name, c["position"], c["text"], vector)
                for c, vector in zip(chunks, vectors, strict=True)
            ],
            replacing=old,
        )

    def _enforce(
        self, document: Document, build: int, count: int, embedded: int, reused: int, seconds: float
    ) -> bool:
        """Let a build answer from now on, in one commit; False where the document is not what it was."""
        facts: dict[str, Any] = {
            "chunk_count": count, "embedded": embedded, "reused": reused, "seconds": seconds, "build": build,
        }  # fmt: skip
        as_it_was = (
            col(Document.id) == document.id, col(Document.state).in_(PENDING),
            col(Document.sha256) == document.sha256,
        )  # fmt: skip
        in_force = {
            "state": DocumentState.READY, "reason": "", "progress": 1.0, "version": Document.latest,
            "updated": time.time(), **facts,
        }  # fmt: skip
        with self._database.session() as session:
            # Decided and written in one statement: what was said to be uploaded, cancelled or deleted meanwhile stays.
            taken = session.connection().execute(update(Document).where(*as_it_was).values(in_force))
            if not taken.rowcount:
                return False
            latest = session.exec(select(Document.latest).where(Document.id == document.id)).one()
            of_version = (col(DocumentVersion.document_id) == document.id, col(DocumentVersion.number) == latest)
            session.connection().execute(
                update(DocumentVersion).where(*of_version).values({**facts, "chunker": self.version()})
            )
            self.index_version.note_next(session)
        self.index_version.advance()
        return True
