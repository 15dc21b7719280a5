"""Takes files in: bytes kept by their hash, a row that says what is to be read, and the reader woken."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from sqlmodel import Session

from backend.errors import DocumentError, InvalidInputError
from backend.files.blobs import Blob, Blobs
from backend.knowledge.archive import Member, unpacked
from backend.knowledge.collections import (
    DEFAULT_COLLECTION,
    Collections,
    add,
    collection_name,
    named,
    refuse_taken,
)
from backend.knowledge.formats import SUPPORTED, check
from backend.knowledge.sight import Sight
from backend.knowledge.signals import ReaderSignals
from backend.settings import Settings
from backend.store.database import Database
from backend.store.tables.documents import Document, DocumentState, DocumentVersion

LONGEST_NAME = 255


class Uploads:
    """The one way for a file to become a document, or a version of one.

    Attributes:
        supported: suffixes of the files that can be read.
    """

    supported = tuple(SUPPORTED)

    def __init__(
        self, settings: Settings, database: Database, blobs: Blobs, collections: Collections, signals: ReaderSignals
    ) -> None:
        self._settings, self._database, self._blobs = settings, database, blobs
        self._collections, self._signals = collections, signals

    def upload(
        self, name: str, data: Iterable[bytes], sight: Sight, collection: str = DEFAULT_COLLECTION
    ) -> Document:
        """Store a file and queue it. A file that cannot be read is kept as failed, with the reason.

        The same content again changes nothing (a failed one is tried again); another content under the same name is a
        new version. What another collection has under this name is another document.

        Args:
            name: the file's name; a folder part is dropped.
            data: its bytes in pieces, so that no upload has to fit in memory.
            sight: which collections it may go into.
            collection: where it belongs; made if it does not exist.

        Raises:
            TooLargeError: over the limit; nothing is kept.
            InvalidInputError: a name or collection that cannot be used.
            ConflictError: somebody else's private collection has this name.
            StorageError: the disk is full or the database busy; nothing is kept.
        """
        name = Path(name.replace("\\", "/")).name.strip()
        if not 0 < len(name) <= LONGEST_NAME:
            raise InvalidInputError(f"A file needs a name of at most {LONGEST_NAME} characters.", param="files")
        collection = collection_name(collection)
        with self._blobs.put(data, name=name, limit=self._settings.max_upload_bytes) as blob:
            problem = ""
            try:
                check(name, blob.head, blob.size)
            except DocumentError as error:
                problem = error.message
            with self._collections.naming() as session:
                refuse_taken(session, collection, sight)
                document = named(session, name, collection)
                replaced = document is not None and document.sha256 != blob.sha256
                document = self._noted(session, document, name, blob, problem)
                session.flush()
                add(session, document.id, collection)
        if replaced:
            self._signals.cancel(document.id)  # what is being read of it is not the latest any more
        self._signals.wake()
        return document

    @staticmethod
    def _noted(session: Session, document: Document | None, name: str, blob: Blob, problem: str) -> Document:
        """The document's row, made or changed to what was uploaded."""
        known = document is not None and document.sha256 == blob.sha256
        if document is None:
            document = Document(name=name, sha256=blob.sha256, size=blob.size)
        elif not known:
            document.latest += 1
            document.sha256, document.size = blob.sha256, blob.size
            document.progress, document.updated = 0.0, time.time()
        session.add(document)
        session.flush()
        if not known:
            session.add(
                DocumentVersion(
                    document_id=document.id, number=document.latest, sha256=blob.sha256, size=blob.size
                )
            )
        if problem:
            document.state, document.reason = DocumentState.FAILED, problem
        elif not known or document.state == DocumentState.FAILED:
            document.state, document.reason = DocumentState.QUEUED, ""
        return document

    def upload_archive(
        self, name: str, file: Path, sight: Sight, collection: str = DEFAULT_COLLECTION,
        *, progress: Callable[[int, int], None] = lambda done, of: None,
    ) -> tuple[list[Document], list[str]]:  # fmt: skip
        """Take every file of a zip archive in; returns the documents, and what was left out and why.

        Before each, `progress` is told how many were taken in, and how many there are; what it raises ends this.

        Raises:
            InvalidInputError: not a zip archive, or more than it may hold.
            StorageError: the disk is full or the database busy; what was taken in before stays.
        """
        documents: list[Document] = []

        def take(member: Member) -> None:
            documents.append(self.upload(member.name, member.data, sight, collection))

        refused = unpacked(name, file, take, progress)
        if not documents and not refused:
            raise InvalidInputError(f"{name} holds no files.", param="files")
        return documents, refused
