"""What documents there are: uploads, versions, collections, states. The reading itself is done by `ingest`.

A document keeps its identity by its name within a collection: a changed file of that name is a new version of it, and
the version in force answers until the new one is ready.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import update
from sqlmodel import Session, col, func, select

from backend.errors import DocumentError, InvalidInputError, NotFoundError, TenfoldError, TooLargeError
from backend.knowledge.parse import SUPPORTED, check
from backend.settings import Settings
from backend.store.database import Database
from backend.store.tables import Chunk, Collection, CollectionDocument, Document, DocumentVersion

DEFAULT_COLLECTION = "default"
PENDING = ("queued", "parsing", "embedding")
ARCHIVE_FILES = 2000
ARCHIVE_BYTES = 2 << 30


@dataclass(frozen=True)
class Change:
    """How a version differs from the one before: its chunks by what became of them, in order."""

    added: list[str]
    removed: list[str]
    kept: int


class Documents:
    """Uploads, versions, collections, deletion."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings, self._database = settings, database
        self._lock = threading.Lock()  # two uploads of one name at once are one document
        self.wake: Callable[[], None] = lambda: None  # tells the reader that there is work
        self.cancelled: set[str] = set()
        settings.files_dir.mkdir(parents=True, exist_ok=True)

    # ---- uploading -----------------------------------------------------------------------------------------------

    def upload(self, name: str, data: Iterable[bytes], collection: str = DEFAULT_COLLECTION) -> Document:
        """Store a file and queue it. A file that cannot be read is kept as failed, with the reason.

        The same content again changes nothing; another content under the same name is a new version.

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
        sha256, size, head = self._keep(name, data)
        problem = ""
        try:
            check(name, head, size)
        except DocumentError as error:
            problem = error.message
        with self._lock, self._database.session() as session:
            document = self._same(session, name, sha256, collection) or self._named(session, name, collection)
            if document is None:
                document = Document(name=name, sha256=sha256, size=size)
                session.add(document)
                session.flush()
                session.add(DocumentVersion(document_id=document.id, number=1, sha256=sha256, size=size))
                document.state, document.reason = ("failed", problem) if problem else ("queued", "")
            elif document.sha256 != sha256:
                document.latest += 1
                document.sha256, document.size = sha256, size
                document.state, document.reason = ("failed", problem) if problem else ("queued", "")
                document.progress, document.updated = 0.0, time.time()
                number = document.latest
                session.add(DocumentVersion(document_id=document.id, number=number, sha256=sha256, size=size))
            elif document.state == "failed" and not problem:
                document.state, document.reason = "queued", ""
            session.add(document)
            if session.get(Collection, collection) is None:
                session.add(Collection(name=collection))
            session.flush()
            if session.get(CollectionDocument, (collection, document.id)) is None:
                session.add(CollectionDocument(collection=collection, document_id=document.id))
        self.wake()
        return document

    def _keep(self, name: str, data: Iterable[bytes]) -> tuple[str, int, bytes]:
        """Write the bytes under their hash: (sha256, size, beginning)."""
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
        return digest.hexdigest(), size, head

    @staticmethod
    def _same(session: Session, name: str, sha256: str, collection: str) -> Document | None:
        """A document of this name and content, wherever it is; one of this collection before others."""
        found = session.exec(
            select(Document).where(Document.sha256 == sha256, Document.name == name, Document.state != "deleting")
        ).all()
        return min(
            found, key=lambda d: session.get(CollectionDocument, (collection, d.id)) is None, default=None
        )

    @staticmethod
    def _named(session: Session, name: str, collection: str) -> Document | None:
        return session.exec(
            select(Document)
            .join(CollectionDocument)
            .where(
                CollectionDocument.collection == collection, Document.name == name, Document.state != "deleting"
            )
        ).first()

    def upload_archive(
        self, name: str, file: Path, collection: str = DEFAULT_COLLECTION
    ) -> tuple[list[Document], list[str]]:
        """Take every file of a zip archive in; returns the documents, and what was left out and why.

        Raises:
            InvalidInputError: not a zip archive, encrypted, or more than it may hold.
        """
        try:
            with zipfile.ZipFile(file) as archive:
                members = [m for m in archive.infolist() if not m.is_dir() and not _hidden(m.filename)]
                if len(members) > ARCHIVE_FILES or sum(m.file_size for m in members) > ARCHIVE_BYTES:
                    raise InvalidInputError(
                        f"{name} holds more than {ARCHIVE_FILES:,} files or {ARCHIVE_BYTES >> 30} GB. Split it."
                    )
                documents: list[Document] = []
                refused: list[str] = []
                for member in members:
                    if Path(member.filename).suffix.lower() not in SUPPORTED:
                        refused.append(f"{member.filename}: this type is not supported.")
                        continue
                    try:
                        documents.append(self.upload(member.filename, _unpacked(archive, member), collection))
                    except (TenfoldError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
                        refused.append(f"{member.filename}: {error}")
        except zipfile.BadZipFile as error:
            raise InvalidInputError(f"{name} is not a zip archive, or is damaged: {error}.", param="files") from error
        if not documents and not refused:
            raise InvalidInputError(f"{name} holds no files.", param="files")
        return documents, refused

    # ---- reading -------------------------------------------------------------------------------------------------

    def find(self, collection: str | None = None) -> list[Document]:
        """Documents, latest first."""
        with self._database.session() as session:
            query = select(Document).where(Document.state != "deleting").order_by(col(Document.created).desc())
            if collection is not None:
                query = query.join(CollectionDocument).where(CollectionDocument.collection == collection)
            return list(session.exec(query).all())

    def searchable(self, collection: str | None = None) -> set[str]:
        """Ids of documents with a version in force."""
        return {document.id for document in self.find(collection) if document.build}

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

    def chunks(self, document_id: str, number: int | None = None) -> list[Chunk]:
        """The chunks of a document's version (None: the one in force), in order."""
        with self._database.session() as session:
            build = self._build(session, document_id, number)
            query = select(Chunk).where(Chunk.document_id == document_id, Chunk.build == build)
            return list(session.exec(query.order_by(col(Chunk.position))).all())

    @staticmethod
    def _build(session: Session, document_id: str, number: int | None) -> int:
        if number is None:
            document = session.get(Document, document_id)
            return document.build if document else 0
        version = session.get(DocumentVersion, (document_id, number))
        return version.build if version else 0

    def found(self, chunk_ids: list[str]) -> dict[str, tuple[Chunk, Document]]:
        """Chunks in force with their documents, by id; those that are gone are left out."""
        with self._database.session() as session:
            rows = session.exec(
                select(Chunk, Document)
                .join(Document)
                .where(col(Chunk.id).in_(chunk_ids), Chunk.build == Document.build, Document.state != "deleting")
            ).all()
        return {chunk.id: (chunk, document) for chunk, document in rows}

    def versions(self, document_id: str) -> list[DocumentVersion]:
        """The versions of a document, latest first."""
        with self._database.session() as session:
            query = select(DocumentVersion).where(DocumentVersion.document_id == document_id)
            return list(session.exec(query.order_by(col(DocumentVersion.number).desc())).all())

    def changes(self, document_id: str, number: int) -> Change:
        """What a version's text added to and removed from the version before that was read.

        Raises:
            NotFoundError: no such version, or its text is not kept any more.
        """
        self.get(document_id)
        readable = [v for v in self.versions(document_id) if v.build and v.number <= number]
        if not readable or readable[0].number != number:
            raise NotFoundError(f"Version {number} has no text to compare.")
        new = self.chunks(document_id, number)
        old = self.chunks(document_id, readable[1].number) if len(readable) > 1 else []
        before, after = {c.text_hash for c in old}, {c.text_hash for c in new}
        return Change(
            added=[c.text for c in new if c.text_hash not in before],
            removed=[c.text for c in old if c.text_hash not in after],
            kept=sum(c.text_hash in before for c in new),
        )

    # ---- collections ---------------------------------------------------------------------------------------------

    def collections(self) -> dict[str, int]:
        """Collections and how many documents each has."""
        with self._database.session() as session:
            counts = dict.fromkeys(session.exec(select(Collection.name).order_by(Collection.name)).all(), 0)
            for name in session.exec(
                select(CollectionDocument.collection).join(Document).where(Document.state != "deleting")
            ).all():
                counts[name] += 1
        return counts

    def memberships(self) -> dict[str, list[str]]:
        """Collections of every document, by its id."""
        out: dict[str, list[str]] = {}
        with self._database.session() as session:
            query = select(CollectionDocument).order_by(col(CollectionDocument.collection))
            for row in session.exec(query).all():
                out.setdefault(row.document_id, []).append(row.collection)
        return out

    def set_collections(self, document_id: str, names: list[str]) -> None:
        """Put a document into these collections and no others; nothing is read again.

        Raises:
            InvalidInputError: none, or a name that cannot be used.
        """
        self.get(document_id)
        wanted = {name.strip() for name in names}
        if not wanted or not all(0 < len(name) <= 100 for name in wanted):
            raise InvalidInputError("A document is in at least one collection; names have 1 to 100 characters.")
        with self._database.session() as session:
            for name in wanted:
                if session.get(Collection, name) is None:
                    session.add(Collection(name=name))
            session.flush()
            rows = session.exec(select(CollectionDocument).where(CollectionDocument.document_id == document_id)).all()
            for row in rows:
                if row.collection not in wanted:
                    session.delete(row)
            for name in wanted - {row.collection for row in rows}:
                session.add(CollectionDocument(collection=name, document_id=document_id))

    def delete_collection(self, name: str) -> None:
        """Delete an empty collection.

        Raises:
            InvalidInputError: it still has documents.
        """
        if self.collections().get(name):
            raise InvalidInputError(f"{name} still has documents. Move or delete them first.")
        with self._database.session() as session:
            row = session.get(Collection, name)
            if row is not None:
                session.delete(row)

    # ---- changing state ------------------------------------------------------------------------------------------

    def retry(self, document_id: str) -> None:
        """Read a failed or cancelled document again."""
        self.reread([document_id])

    def reread(self, document_ids: list[str]) -> None:
        """Queue documents to be read anew; what is in force answers meanwhile, and equal chunks keep their vectors."""
        self.cancelled.difference_update(document_ids)
        for document_id in document_ids:
            if self.get(document_id).state not in PENDING:
                self.set(document_id, state="queued", reason="", progress=0.0)
        self.wake()

    def cancel(self, document_id: str) -> None:
        """Stop reading a document; a version in force stays."""
        document = self.get(document_id)
        if document.state in PENDING:
            self.cancelled.add(document_id)
            self.set(document_id, state="failed", reason="Cancelled. Retry to read it.")

    def delete(self, document_id: str) -> None:
        """Delete a document in whatever state it is; it disappears at once, its traces a moment later."""
        self.get(document_id)
        self.cancelled.add(document_id)
        self.set(document_id, state="deleting")
        self.wake()

    def set(self, document_id: str, *, only_from: tuple[str, ...] | None = None, **changes: object) -> bool:
        """Change a document's row unless it is being deleted (or not in one of `only_from`); whether it did."""
        values = {**changes, "updated": time.time()}
        with self._database.session() as session:
            change = update(Document).where(col(Document.id) == document_id).values(**values)
            if changes.get("state") != "deleting":
                change = change.where(col(Document.state) != "deleting")
            if only_from is not None:
                change = change.where(col(Document.state).in_(only_from))
            return bool(session.connection().execute(change).rowcount)

    @property
    def pending(self) -> int:
        """Documents still to be read."""
        with self._database.session() as session:
            return session.exec(
                select(func.count(col(Document.id))).where(col(Document.state).in_(PENDING))
            ).one()





def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) and part != ".." for part in Path(name).parts)


def _unpacked(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    with archive.open(member) as stream:
        while piece := stream.read(1 << 20):
            yield piece
