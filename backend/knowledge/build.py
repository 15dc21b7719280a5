"""One build's life: a document's text, cut, embedded and stored beside the build in force, whose place it takes.

The change comes in one commit; before it nothing of a build is findable, after it nothing of the one before. What could
not be taken back or away (a full disk, a locked database) is remembered, and done before anything else is.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import delete, insert
from sqlmodel import col, func, select

from backend.engine.messages import BATCH
from backend.errors import DocumentError
from backend.files.blobs import Blobs
from backend.knowledge.chunk import Chunker, Piece
from backend.knowledge.documents import PENDING, Documents
from backend.knowledge.embeddings import EmbeddingService
from backend.knowledge.graph import GraphChunk
from backend.knowledge.index import KnowledgeIndex
from backend.knowledge.parse import parse
from backend.knowledge.signals import CancelToken
from backend.models.texts import Texts
from backend.settings import Settings
from backend.store.database import Database
from backend.store.ids import new_id
from backend.store.tables.documents import Chunk, Document, DocumentState, DocumentVersion
from backend.store.tables.settings import Setting

SLICE = 256
"""Chunks embedded, stored and indexed at a time: bounds memory, and how long a cancellation waits."""
KEPT_VERSIONS = 5
"""Versions whose text is kept, to show what changed."""
INDEX_VERSION = "index_version"


@dataclass(frozen=True)
class Rate:
    """How reading a document goes: chunks done and in all, chunks per second, seconds left."""

    done: int
    total: int
    per_second: float
    left: float


@dataclass(frozen=True)
class _Remains:
    """Chunks to be made unfindable, and the build (if any) whose rows are to go."""

    document_id: str
    build: int | None
    ids: list[str]


class Builder:
    """Makes builds, one at a time, and takes away what is not wanted any more."""

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
        self._remains: list[_Remains] = []
        self._rates: dict[str, Rate] = {}
        self._storer = ThreadPoolExecutor(1, thread_name_prefix="store")
        with database.session() as session:
            row = session.get(Setting, INDEX_VERSION)
        self._index_version = int(row.value) if row else 0

    def close(self) -> None:
        """End the thread that stores."""
        self._storer.shutdown()

    @property
    def index_version(self) -> int:
        """Grows with everything that becomes or ceases to be findable."""
        return self._index_version

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
            self._remains.append(
                _Remains(document.id, None, old) if in_force else _Remains(document.id, build, added)
            )
            if not in_force:
                self.tidy()
        if in_force:
            self.tidy()
            self._forget_old(document.id)

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
        facts = {"chunk_count": count, "embedded": embedded, "reused": reused, "seconds": seconds}
        with self._database.session() as session:
            row = session.get(Document, document.id)
            if row is None or row.state not in PENDING or row.sha256 != document.sha256:
                return False
            version = session.get(DocumentVersion, (document.id, row.latest))
            row.state, row.reason, row.progress = DocumentState.READY, "", 1.0
            row.build, row.version, row.updated = build, row.latest, time.time()
            for name, value in facts.items():
                setattr(row, name, value)
                if version is not None:
                    setattr(version, name, value)
            if version is not None:
                version.build, version.chunker = build, self.version()
                session.add(version)
            session.add(row)
            session.merge(Setting(key=INDEX_VERSION, value=self._index_version + 1))
        self._index_version += 1
        return True

    # ---- taking away ---------------------------------------------------------------------------------------------

    def tidy(self) -> None:
        """Take away what is left of builds that are not in force (any more)."""
        while self._remains:
            remains = self._remains[0]
            self._index.remove(remains.ids)
            if remains.build is not None:
                with self._database.session() as session:
                    session.connection().execute(
                        delete(Chunk).where(
                            col(Chunk.document_id) == remains.document_id, col(Chunk.build) == remains.build
                        )
                    )
            self._remains.pop(0)

    def sweep(self) -> None:
        """Remove what a kill left: chunks that no version names, and bytes that no document needs."""
        with self._database.session() as session:
            known = select(DocumentVersion.document_id, DocumentVersion.build)
            pairs = set(session.exec(known).all()) | set(session.exec(select(Document.id, Document.build)).all())
            there = set(session.exec(select(Chunk.document_id, Chunk.build).distinct()).all())
            for document_id, build in there - pairs:
                session.connection().execute(
                    delete(Chunk).where(col(Chunk.document_id) == document_id, col(Chunk.build) == build)
                )
            needed = set(session.exec(select(DocumentVersion.sha256)).all())
            needed |= set(session.exec(select(Document.sha256)).all())
        for sha256 in self._blobs.names() - needed:
            self._blobs.drop(sha256, lambda sha256=sha256: self._needed(sha256))  # type: ignore[misc]

    def _forget_old(self, document_id: str) -> None:
        """Keep the text of the latest versions only, and of each the latest build."""
        versions = self._documents.versions(document_id)
        with self._database.session() as session:
            in_force = session.exec(select(Document.build).where(Document.id == document_id)).first() or 0
            kept = {version.build for version in versions[:KEPT_VERSIONS]} | {in_force}
            session.connection().execute(
                delete(Chunk).where(col(Chunk.document_id) == document_id, col(Chunk.build).not_in(kept))
            )
            for version in versions[KEPT_VERSIONS:]:
                version.build = 0
                session.merge(version)
        for version in versions[KEPT_VERSIONS:]:
            self._drop(version.sha256, document_id)

    def erase(self, document: Document) -> None:
        """Take a deleted document away altogether; done again after a failure, it goes on where it was."""
        with self._database.session() as session:
            ids = list(session.exec(select(Chunk.id).where(Chunk.document_id == document.id)).all())
            hashes = set(
                session.exec(select(DocumentVersion.sha256).where(DocumentVersion.document_id == document.id)).all()
            )
        self._index.remove(ids)
        with self._database.session() as session:
            row = session.get(Document, document.id)
            if row is not None:
                session.delete(row)
            session.merge(Setting(key=INDEX_VERSION, value=self._index_version + 1))
        self._index_version += 1
        for sha256 in hashes | {document.sha256}:
            self._drop(sha256, document.id)

    def _drop(self, sha256: str, document_id: str) -> None:
        """Delete bytes that no other document, and no version whose text is kept, needs."""
        self._blobs.drop(sha256, lambda: self._needed(sha256, document_id))

    def _needed(self, sha256: str, besides: str = "") -> bool:
        with self._database.session() as session:
            version = session.exec(
                select(DocumentVersion.number).where(
                    DocumentVersion.sha256 == sha256,
                    (col(DocumentVersion.document_id) != besides) | (col(DocumentVersion.build) > 0),
                )
            ).first()
            current = session.exec(select(Document.id).where(Document.sha256 == sha256)).first()
        return version is not None or current is not None
