"""Reads documents: queued → parsing → embedding → ready, or failed with its reason. Every state survives a kill.

One worker thread does the work, and a second stores what is embedded while the first goes on; the state in the database
says what is left to do, so a restart just goes on. A new set of chunks (a build) is made beside the one in force and
takes its place in one commit.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import delete, insert
from sqlmodel import col, func, select

from backend.engine.messages import BATCH
from backend.errors import DocumentError, TenfoldError
from backend.knowledge.chunk import Chunker, Piece
from backend.knowledge.documents import PENDING, Documents
from backend.knowledge.embeddings import EmbeddingService
from backend.knowledge.graph import GraphChunk
from backend.knowledge.index import KnowledgeIndex
from backend.knowledge.parse import parse
from backend.settings import Settings
from backend.store.database import Database
from backend.store.tables import Chunk, Document, DocumentVersion, Setting, new_id

log = logging.getLogger(__name__)

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
class Plan:
    """What reading documents anew would take, before it is begun.

    Attributes:
        documents: ids of those that were cut or embedded otherwise than now.
        chunks: chunks they have now; at most so many embeddings are computed.
        seconds, cost: estimated from the rate at which this machine embedded so far.
    """

    documents: list[str]
    chunks: int
    seconds: float
    cost: float


class _CancelledError(Exception):
    """The document was deleted or cancelled, or the server is stopping, while it was read."""


class Ingest:
    """The worker behind `Documents`."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        documents: Documents,
        embeddings: EmbeddingService,
        index: KnowledgeIndex,
        chunker: Callable[[], Chunker],
        seconds_per_token: Callable[[], float],
        price_per_hour: Callable[[], float],
    ) -> None:
        self._settings, self._database, self._documents = settings, database, documents
        self._embeddings, self._index, self._chunker = embeddings, index, chunker
        self._seconds_per_token, self._price_per_hour = seconds_per_token, price_per_hour
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._rates: dict[str, Rate] = {}
        self._dirty = False
        self._version = 0
        documents.wake = self._wake.set
        self._thread = threading.Thread(target=self._work, name="ingest", daemon=True)
        self._storer = ThreadPoolExecutor(1, thread_name_prefix="store")

    def start(self) -> None:
        """Begin working; what a kill left unfinished is taken up again."""
        self._sweep()
        with self._database.session() as session:
            row = session.get(Setting, INDEX_VERSION)
        self._version = int(row.value) if row else 0
        self._thread.start()

    def close(self) -> None:
        """End the worker; what it was doing goes on at the next start."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(10)
        self._storer.shutdown()

    @property
    def index_version(self) -> int:
        """Grows with everything that becomes or ceases to be findable."""
        return self._version

    def rate(self, document_id: str) -> Rate | None:
        """How reading a document goes; None where it is not being read."""
        return self._rates.get(document_id)

    def plan(self, document_ids: list[str] | None = None) -> Plan:
        """What reading these documents (None: all that were read otherwise than now) anew would take."""
        version, chosen = self._build_version(), set(document_ids or ())
        with self._database.session() as session:
            query = (
                select(Document.id, func.count(col(Chunk.id)), func.sum(Chunk.tokens), func.min(Chunk.chunker))
                .join(Chunk)
                .where(Chunk.build == Document.build, Document.state != "deleting")
                .group_by(col(Document.id))
            )
            rows = [
                row for row in session.exec(query).all()
                if (row[0] in chosen if document_ids is not None else row[3] != version)
            ]  # fmt: skip
        seconds = sum(int(row[2] or 0) for row in rows) * self._seconds_per_token()
        chunks = sum(int(row[1]) for row in rows)
        return Plan([row[0] for row in rows], chunks, seconds, seconds * self._price_per_hour() / 3600)

    def _build_version(self) -> str:
        return f"{self._chunker().version}:{self._embeddings.fingerprint[:16]}"

    # ---- the worker ----------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """Remove chunks that no version names: what a kill left of builds that never came into force."""
        with self._database.session() as session:
            known = select(DocumentVersion.document_id, DocumentVersion.build)
            pairs = set(session.exec(known).all()) | set(session.exec(select(Document.id, Document.build)).all())
            there = set(session.exec(select(Chunk.document_id, Chunk.build).distinct()).all())
            for document_id, build in there - pairs:
                session.connection().execute(
                    delete(Chunk).where(col(Chunk.document_id) == document_id, col(Chunk.build) == build)
                )

    def _work(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            document = self._next()
            if document is None:
                if self._dirty:
                    self._dirty = False
                    self._index.save()
                self._wake.wait()
                continue
            if not self._index.opened:
                self._wake.wait(0.5)  # the models are still being loaded
                continue
            try:
                if document.state == "deleting":
                    self._erase(document)
                else:
                    self._read(document)
            except _CancelledError:
                pass
            except TenfoldError as error:
                self._fail(document, error.message)
            except Exception as error:
                log.exception("document %s failed", document.id)
                self._fail(document, f"Something went wrong: {error}. Retry, or look at the log.")
            finally:
                self._rates.pop(document.id, None)

    def _next(self) -> Document | None:
        with self._database.session() as session:
            query = select(Document).where(col(Document.state).in_(["deleting", *PENDING]))
            waiting = session.exec(query.order_by(col(Document.updated)).limit(1)).all()
            going = session.exec(query.where(Document.state == "deleting").limit(1)).all()
        return next(iter([*going, *waiting]), None)

    def _fail(self, document: Document, reason: str) -> None:
        if document.id not in self._documents.cancelled:
            self._documents.set(document.id, state="failed", reason=reason, only_from=PENDING)

    def _read(self, document: Document) -> None:
        started = time.monotonic()

        def cancelled() -> bool:
            return document.id in self._documents.cancelled or self._stopping.is_set()

        def check() -> None:
            if cancelled():
                raise _CancelledError

        check()
        if not self._documents.set(document.id, state="parsing", progress=0.02, only_from=PENDING):
            return
        text = parse(
            self._settings.files_dir / document.sha256, document.name, self._settings.parse_timeout_s, cancelled
        )
        pieces = self._chunker().split(text, document.name)
        if not pieces:
            raise DocumentError(f"No text was found in {document.name}.")
        check()
        self._documents.set(document.id, state="embedding", progress=0.05, chunk_count=len(pieces), only_from=PENDING)
        build = self._new_build(document.id)
        old = [chunk.id for chunk in self._documents.chunks(document.id)]
        embedded = reused = 0
        added: list[str] = []
        storing: Future[None] | None = None  # of the slice before, while the next one is embedded
        embedding_started = time.monotonic()
        try:
            for start in range(0, len(pieces), SLICE):
                part = pieces[start : start + SLICE]

                def progress(done: int, _: int, start: int = start) -> None:
                    check()
                    seconds = time.monotonic() - embedding_started
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
                storing = self._storer.submit(self._store, document, chunks, result.vectors)
                progress(len(part), 0)
                self._documents.set(
                    document.id, progress=0.05 + 0.95 * (start + len(part)) / len(pieces), only_from=PENDING
                )
            if storing is not None:
                storing.result()
            check()
            in_force = self._enforce(document, build, len(pieces), embedded, reused, time.monotonic() - started)
        except BaseException:
            if storing is not None:
                wait([storing])
            self._discard(document.id, build, added)
            raise
        if not in_force:  # deleted, cancelled, or replaced by a newer upload meanwhile
            self._discard(document.id, build, added)
            return
        self._index.remove(old)
        self._forget_old(document.id)
        self._dirty = True

    def _new_build(self, document_id: str) -> int:
        with self._database.session() as session:
            last = session.exec(select(func.max(Chunk.build)).where(Chunk.document_id == document_id)).one()
            kept = session.exec(
                select(func.max(DocumentVersion.build)).where(DocumentVersion.document_id == document_id)
            ).one()
        return max(last or 0, kept or 0) + 1

    def _chunks(self, document: Document, build: int, start: int, part: list[Piece]) -> list[dict[str, Any]]:
        """Rows of the chunk table."""
        version = self._build_version()
        return [
            {
                "id": new_id(), "document_id": document.id, "build": build, "position": start + i, "text": piece.text,
                "text_hash": piece.text_hash, "tokens": piece.tokens, "chunker": version,
            }
            for i, piece in enumerate(part)
        ]  # fmt: skip

    def _store(self, document: Document, chunks: list[dict[str, Any]], vectors: np.ndarray) -> None:
        with self._database.session() as session:
            session.connection().execute(insert(Chunk), chunks)
        self._index.add(
            [
                GraphChunk(c["id"], document.id, document.name, c["position"], c["text"], vector)
                for c, vector in zip(chunks, vectors, strict=True)
            ]
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
            row.state, row.reason, row.progress = "ready", "", 1.0
            row.build, row.version, row.updated = build, row.latest, time.time()
            for name, value in facts.items():
                setattr(row, name, value)
                if version is not None:
                    setattr(version, name, value)
            if version is not None:
                version.build, version.chunker = build, self._build_version()
                session.add(version)
            session.add(row)
            session.merge(Setting(key=INDEX_VERSION, value=self._version + 1))
        self._version += 1
        return True

    def _discard(self, document_id: str, build: int, ids: list[str]) -> None:
        """Take back a build that will not come into force."""
        self._index.remove(ids)
        with self._database.session() as session:
            session.connection().execute(
                delete(Chunk).where(col(Chunk.document_id) == document_id, col(Chunk.build) == build)
            )

    def _forget_old(self, document_id: str) -> None:
        """Keep the text of the latest versions only, and of each the latest build."""
        versions = self._documents.versions(document_id)
        kept = {version.build for version in versions[:KEPT_VERSIONS]} | {self._documents.get(document_id).build}
        with self._database.session() as session:
            session.connection().execute(
                delete(Chunk).where(col(Chunk.document_id) == document_id, col(Chunk.build).not_in(kept))
            )
            for version in versions[KEPT_VERSIONS:]:
                version.build = 0
                session.merge(version)
        for version in versions[KEPT_VERSIONS:]:
            self._delete_file(version.sha256, document_id)

    def _erase(self, document: Document) -> None:
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
            session.merge(Setting(key=INDEX_VERSION, value=self._version + 1))
        self._version += 1
        for sha256 in hashes | {document.sha256}:
            self._delete_file(sha256, document.id)
        self._documents.cancelled.discard(document.id)
        self._dirty = True

    def _delete_file(self, sha256: str, document_id: str) -> None:
        """Delete bytes that no other document, and no version whose text is kept, needs."""
        with self._database.session() as session:
            others = session.exec(
                select(DocumentVersion.number).where(
                    DocumentVersion.sha256 == sha256,
                    (col(DocumentVersion.document_id) != document_id) | (col(DocumentVersion.build) > 0),
                )
            ).first()
            current = session.exec(select(Document.id).where(Document.sha256 == sha256)).first()
        if others is None and current is None:
            (self._settings.files_dir / sha256).unlink(missing_ok=True)
