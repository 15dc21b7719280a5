"""The files of /v1/files: names for bytes, each its tenant's alone. Bytes go with the last name that they have.

Knows nothing of what is in them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import ColumnElement
from sqlmodel import Session, col, or_, select

from backend.errors import InvalidInputError, NotFoundError
from backend.files.blobs import Blob, Blobs
from backend.store.database import Database
from backend.store.tables.files import StoredFile

log = logging.getLogger(__name__)

DAY = 86400
KEPT = {"batch": 30 * DAY, "batch_output": 30 * DAY}
"""Seconds after which files expire of which nobody said when, by purpose; others stay until they are deleted."""
LONGEST_NAME = 255


class Catalogue:
    """Every file.

    Args:
        database: where the names are.
        blobs: where the bytes are; nobody else's.
        limit: bytes of the largest file accepted.
    """

    def __init__(self, database: Database, blobs: Blobs, limit: int) -> None:
        self._database, self._blobs, self._limit = database, blobs, limit

    def upload(
        self, name: str, data: Iterable[bytes], *, tenant: str, purpose: str, seconds: int | None = None
    ) -> StoredFile:
        """Keep a file.

        Args:
            name: the file's; a folder part is dropped.
            data: its bytes in pieces, so that nothing has to fit in memory.
            tenant: whose it is.
            purpose: what it is for.
            seconds: after which it expires; None: as its purpose says.

        Raises:
            InvalidInputError: no name, or one that is too long.
            TooLargeError: over the limit; nothing is kept.
            StorageError: the disk is full or the database busy; nothing is kept.
        """
        name = Path(name.replace("\\", "/")).name.strip()
        if not 0 < len(name) <= LONGEST_NAME:
            raise InvalidInputError(f"A file needs a name of at most {LONGEST_NAME} characters.", param="file")
        with self._blobs.put(data, name=name, limit=self._limit) as blob, self._database.session() as session:
            file = named(session, blob, name, tenant=tenant, purpose=purpose, seconds=seconds)
        return file

    @contextmanager
    def written(self, data: Iterable[bytes], name: str) -> Iterator[Blob]:
        """Bytes that this server writes itself, of whatever size; inside the block they can be `named`."""
        with self._blobs.put(data, name=name, limit=1 << 62) as blob:
            yield blob

    def get(self, file_id: str, tenant: str, *, param: str | None = None) -> StoredFile:
        """One file of a tenant's.

        Raises:
            NotFoundError: there is none of this id, or it is another's.
        """
        query = select(StoredFile).where(StoredFile.id == file_id, StoredFile.tenant == tenant, *_current())
        with self._database.session() as session:
            file = session.exec(query).first()
        if file is None:
            raise NotFoundError(f"There is no file {file_id!r}; it may have been deleted or have expired.", param=param)
        return file

    def page(
        self, tenant: str, *, after: str | None, limit: int, purpose: str | None = None, oldest_first: bool = False
    ) -> list[StoredFile]:
        """Files of a tenant's behind the one of an id, be it still there or not."""
        query = select(StoredFile).where(StoredFile.tenant == tenant, *_current())
        if purpose is not None:
            query = query.where(StoredFile.purpose == purpose)
        if after is not None:
            query = query.where(col(StoredFile.id) > after if oldest_first else col(StoredFile.id) < after)
        order = col(StoredFile.id).asc() if oldest_first else col(StoredFile.id).desc()
        with self._database.session() as session:
            return list(session.exec(query.order_by(order).limit(limit)).all())

    def open(self, file: StoredFile) -> BinaryIO:
        """A file's bytes, to be read; what is open can be read to its end whatever becomes of the file."""
        return self._blobs.open(file.sha256)

    def delete(self, file_id: str, tenant: str) -> None:
        """Delete a file. A batch that reads it goes on.

        Raises:
            NotFoundError: there is none of this id, or it is another's.
        """
        self.forget(self.get(file_id, tenant))

    def reference(self, session: Session, file: StoredFile) -> StoredFile:
        """Another name for a file's bytes, in nobody's list: they stay until it is forgotten."""
        held = StoredFile(
            tenant=file.tenant, name=file.name, purpose=file.purpose, sha256=file.sha256, size=file.size, listed=False
        )
        session.add(held)
        return held

    def referred(self, file_id: str) -> StoredFile | None:
        """What `reference` made; None where it was forgotten."""
        with self._database.session() as session:
            return session.get(StoredFile, file_id)

    def forget(self, file: StoredFile) -> None:
        """Take a name away, and the bytes with their last."""
        with self._database.session() as session:
            row = session.get(StoredFile, file.id)
            if row is not None:
                session.delete(row)
        self._blobs.drop(file.sha256, lambda: self._needed(file.sha256))

    def drop_expired(self) -> None:
        """Forget what has expired."""
        query = select(StoredFile).where(col(StoredFile.expires) <= time.time())
        with self._database.session() as session:
            expired = session.exec(query).all()
        for file in expired:
            self.forget(file)

    def sweep(self) -> None:
        """Remove bytes that a killed process left without a name; to be called before anything is put."""
        self._blobs.sweep()
        for sha256 in self._blobs.names():
            if not self._needed(sha256):
                self._blobs.drop(sha256, lambda sha256=sha256: self._needed(sha256))  # type: ignore[misc]

    def _needed(self, sha256: str) -> bool:
        with self._database.session() as session:
            return session.exec(select(StoredFile.id).where(StoredFile.sha256 == sha256)).first() is not None


def named(
    session: Session, blob: Blob, name: str, *, tenant: str, purpose: str, seconds: int | None = None
) -> StoredFile:
    """Name bytes that are being put; see `Catalogue.upload`."""
    now = time.time()
    kept = KEPT.get(purpose) if seconds is None else seconds
    file = StoredFile(
        tenant=tenant, name=name, purpose=purpose, sha256=blob.sha256, size=blob.size, created=now,
        expires=None if kept is None else now + kept,
    )  # fmt: skip
    session.add(file)
    return file


def _current() -> tuple[ColumnElement[bool], ...]:
    """Listed, and not expired."""
    lasting = or_(col(StoredFile.expires).is_(None), col(StoredFile.expires) > time.time())
    return col(StoredFile.listed).is_(True), lasting
