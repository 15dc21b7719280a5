"""The life of a document: queued → parsing → embedding → ready, or failed with its reason. Every state survives a kill.

One worker thread does the work; the state in the database says what is left to do, so a restart just goes on.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from sqlalchemy import delete
from sqlmodel import col, select

from backend.engine.messages import BATCH
from backend.errors import DocumentError, InvalidInputError, NotFoundError, TenfoldError, TooLargeError
from backend.knowledge.chunk import Chunker
from backend.knowledge.embeddings import EmbeddingService
from backend.knowledge.index import VectorIndex
from backend.knowledge.parse import check, parse
from backend.settings import Settings
from backend.store.database import Database
from backend.store.tables import Chunk, Collection, CollectionDocument, Document

log = logging.getLogger(__name__)

DEFAULT_COLLECTION = "default"
PENDING = ("queued", "parsing", "embedding")


class Documents:
    """Uploads, states, deletion, and the worker behind them."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        embeddings: EmbeddingService,
        index: VectorIndex,
        chunker: Callable[[], Chunker],
        ready: Callable[[], bool],
    ) -> None:
        self._settings, self._database = settings, database
        self._embeddings, self._index, self._chunker, self._ready = embeddings, index, chunker, ready
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._cancelled: set[str] = set()
        self._thread = threading.Thread(target=self._work, name="ingest", daemon=True)
        settings.files_dir.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Begin working; what a kill left unfinished is taken up again."""
        self._thread.start()

    def close(self) -> None:
        """End the worker; what it was doing goes on at the next start."""
        self._stopping.set()
        self._wake.set()
        self._thread.join(5)

    # ---- what users do -------------------------------------------------------------------------------------------

    def upload(self, name: str, data: Iterable[bytes], collection: str = DEFAULT_COLLECTION) -> Document:
        """Store a file and queue it. A file that cannot be read is kept as failed, with the reason.

        Args:
            name: the file's name; a folder part is dropped.
            data: its bytes in pieces, so that no upload has to fit in memory.
            collection: where it belongs; made if it does not exist.

        Raises:
            TooLargeError: over the limit; nothing is kept.
            InvalidInputError: a name or collection that cannot be used.
        """
        name = Path(name.replace("\\", "/")).name.strip()
        if not name or len(name) > 255:
            raise InvalidInputError("A file needs a name of at most 255 characters.", param="files")
        collection = collection.strip()
        if not collection or len(collection) > 100:
            raise InvalidInputError("A collection's name has 1 to 100 characters.", param="collection")
        digest, size, head = hashlib.sha256(), 0, b""
        limit = self._settings.max_upload_mb << 20
        with tempfile.NamedTemporaryFile(dir=self._settings.files_dir, delete=False) as aside:
            try:
                for piece in data:
                    size += len(piece)
                    if size > limit:
                        raise TooLargeError(
                            f"{name} is larger than {self._settings.max_upload_mb} MB, the limit for one file."
                        )
                    head = head or piece[:1024]
                    digest.update(piece)
                    aside.write(piece)
                aside.flush()
                os.fsync(aside.fileno())
                os.replace(aside.name, self._settings.files_dir / digest.hexdigest())
            except BaseException:
                Path(aside.name).unlink(missing_ok=True)
                raise
        document = Document(name=name, sha256=digest.hexdigest(), size=size)
        try:
            check(name, head, size)
        except DocumentError as error:
            document.state, document.reason = "failed", error.message
        with self._database.session() as session:
            same = session.exec(
                select(Document).where(
                    Document.sha256 == document.sha256, Document.name == name, Document.state != "deleting"
                )
            ).first()
            if same is not None:
                document = same
                if document.state == "failed":
                    document.state, document.reason = "queued", ""
                    session.add(document)
            else:
                session.add(document)
            if session.get(Collection, collection) is None:
                session.add(Collection(name=collection))
            session.flush()
            if session.get(CollectionDocument, (collection, document.id)) is None:
                session.add(CollectionDocument(collection=collection, document_id=document.id))
        self._wake.set()
        return document

    def find(self, collection: str | None = None) -> list[Document]:
        """Documents, latest first."""
        with self._database.session() as session:
            query = select(Document).where(Document.state != "deleting").order_by(col(Document.created).desc())
            if collection is not None:
                query = query.join(CollectionDocument).where(CollectionDocument.collection == collection)
            return list(session.exec(query).all())

    def get(self, document_id: str) -> Document:
        """One document.

        Raises:
            NotFoundError: it was deleted, or never was.
        """
        with self._database.session() as session:
            document = session.get(Document, document_id)
        if document is None or document.state == "deleting":
            raise NotFoundError(f"There is no document {document_id!r}.")
        return document

    def chunks(self, document_id: str) -> list[Chunk]:
        """The chunks of a document, in order."""
        with self._database.session() as session:
            query = select(Chunk).where(Chunk.document_id == document_id).order_by(col(Chunk.position))
            return list(session.exec(query).all())

    def chunk(self, chunk_id: str) -> tuple[Chunk, Document] | None:
        """A chunk with its document; None once it is deleted."""
        with self._database.session() as session:
            return session.exec(select(Chunk, Document).join(Document).where(Chunk.id == chunk_id)).first()

    def collections(self) -> dict[str, int]:
        """Collections and how many documents each has."""
        with self._database.session() as session:
            counts = dict.fromkeys(session.exec(select(Collection.name).order_by(Collection.name)).all(), 0)
            for name in session.exec(
                select(CollectionDocument.collection).join(Document).where(Document.state != "deleting")
            ).all():
                counts[name] += 1
        return counts

    def retry(self, document_id: str) -> None:
        """Queue a failed document again."""
        self.get(document_id)
        self._cancelled.discard(document_id)
        self._set(document_id, state="queued", reason="", progress=0.0)
        self._wake.set()

    def delete(self, document_id: str) -> None:
        """Delete a document in whatever state it is; it disappears at once, its traces a moment later."""
        self.get(document_id)
        self._cancelled.add(document_id)
        self._set(document_id, state="deleting")
        self._wake.set()

    @property
    def pending(self) -> int:
        """Documents still to be read."""
        with self._database.session() as session:
            return len(session.exec(select(Document.id).where(col(Document.state).in_(PENDING))).all())

    # ---- the worker ----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            document = self._next()
            if document is None:
                self._wake.wait()
                continue
            if not self._ready():
                self._wake.wait(0.5)  # the models are still being loaded
                continue
            try:
                if document.state == "deleting":
                    self._erase(document)
                else:
                    self._ingest(document)
            except TenfoldError as error:
                self._fail(document, error.message)
            except Exception as error:
                log.exception("document %s failed", document.id)
                self._fail(document, f"Something went wrong: {error}. Retry, or look at the log.")

    def _next(self) -> Document | None:
        with self._database.session() as session:
            query = select(Document).where(col(Document.state).in_(["deleting", *PENDING]))
            waiting = session.exec(query.order_by(col(Document.created))).all()
        return min(waiting, key=lambda d: d.state != "deleting", default=None)

    def _set(self, document_id: str, **changes: object) -> None:
        with self._database.session() as session:
            document = session.get(Document, document_id)
            if document is None or (document.state == "deleting" and changes.get("state") != "deleting"):
                return
            for name, value in changes.items():
                setattr(document, name, value)
            document.updated = time.time()
            session.add(document)

    def _fail(self, document: Document, reason: str) -> None:
        if document.id not in self._cancelled:
            self._set(document.id, state="failed", reason=reason)

    def _ingest(self, document: Document) -> None:
        started = time.monotonic()

        def cancelled() -> bool:
            return document.id in self._cancelled or self._stopping.is_set()

        self._set(document.id, state="parsing", progress=0.05)
        text = parse(
            self._settings.files_dir / document.sha256, document.name, self._settings.parse_timeout_s, cancelled
        )
        pieces = self._chunker().split(text, document.name)
        if not pieces:
            raise DocumentError(f"No text was found in {document.name}.")
        if cancelled():
            return
        self._set(document.id, state="embedding", progress=0.1, chunk_count=len(pieces))
        reported = 0.0

        def progress(done: int, total: int) -> None:
            nonlocal reported
            if cancelled():
                raise _CancelledError
            if time.monotonic() - reported > 0.3:
                reported = time.monotonic()
                self._set(document.id, progress=0.1 + 0.85 * done / total)

        try:
            embedded = self._embeddings.embed(
                [piece.text for piece in pieces], source="ingest", path=BATCH, progress=progress
            )
        except _CancelledError:
            return
        version = self._chunker().version
        with self._database.session() as session:
            old = list(session.exec(select(Chunk.id).where(Chunk.document_id == document.id)).all())
            session.connection().execute(delete(Chunk).where(col(Chunk.document_id) == document.id))
            chunks = [
                Chunk(
                    document_id=document.id, position=i, text=piece.text, text_hash=piece.text_hash,
                    tokens=piece.tokens, chunker=version,
                )
                for i, piece in enumerate(pieces)
            ]
            session.add_all(chunks)
        if old:
            self._index.remove(old)
        self._index.add([c.id for c in chunks], embedded.vectors, [document.id] * len(chunks))
        self._set(
            document.id, state="ready", progress=1.0, chunk_count=len(chunks), embedded=embedded.computed,
            reused=embedded.reused, seconds=time.monotonic() - started, reason="",
        )

    def _erase(self, document: Document) -> None:
        with self._database.session() as session:
            ids = list(session.exec(select(Chunk.id).where(Chunk.document_id == document.id)).all())
        if ids:
            self._index.remove(ids)
        with self._database.session() as session:
            row = session.get(Document, document.id)
            if row is not None:
                session.delete(row)
            others = session.exec(
                select(Document.id).where(Document.sha256 == document.sha256, Document.id != document.id)
            ).first()
        if others is None:
            (self._settings.files_dir / document.sha256).unlink(missing_ok=True)
        self._cancelled.discard(document.id)


class _CancelledError(Exception):
    """The document was deleted, or the server is stopping, in the middle of its embedding."""
