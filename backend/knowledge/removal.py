"""Takes away what is not wanted any more: builds that are not in force, old versions, deleted documents, their bytes.

What could not be taken away (a full disk, a locked database) is remembered, and done before anything else is.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete
from sqlmodel import col, select

from backend.files.blobs import Blobs
from backend.knowledge.documents import Documents
from backend.knowledge.index import KnowledgeIndex
from backend.knowledge.index_version import IndexVersion
from backend.store.database import Database
from backend.store.tables.documents import Chunk, Document, DocumentVersion

KEPT_VERSIONS = 5
"""Versions whose text is kept, to show what changed."""


@dataclass(frozen=True)
class Remains:
    """Chunks to be made unfindable, and the build (if any) whose rows are to go."""

    document_id: str
    build: int | None
    ids: list[str]


class Removal:
    """Called by the one thread that reads documents."""

    def __init__(
        self, database: Database, blobs: Blobs, documents: Documents, index: KnowledgeIndex, index_version: IndexVersion
    ) -> None:
        self._database, self._blobs, self._documents = database, blobs, documents
        self._index, self._index_version = index, index_version
        self._remains: list[Remains] = []

    def leave(self, document_id: str, build: int | None, ids: list[str]) -> None:
        """Say what is to be taken away by the next `tidy`; see `Remains`."""
        self._remains.append(Remains(document_id, build, ids))

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

    def drop_old_versions(self, document_id: str) -> None:
        """Keep the text of the latest versions only, and of each the latest build."""
        with self._database.session() as session:
            query = select(DocumentVersion).where(DocumentVersion.document_id == document_id)
            versions = session.exec(query.order_by(col(DocumentVersion.number).desc())).all()
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
            self._index_version.note_next(session)
        self._index_version.advance()
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
