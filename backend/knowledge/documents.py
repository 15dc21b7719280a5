"""What documents there are: their states, versions, chunks. Taking bytes in is done by `uploads`, reading by `reader`.

A document keeps its identity by its name within a collection: a changed file of that name is a new version of it, and
the version in force answers until the new one is ready. Whoever asks for a caller says what that caller sees.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import update
from sqlmodel import col, exists, func, select

from backend.errors import NotFoundError
from backend.knowledge import listing
from backend.knowledge.collections import seen_document
from backend.knowledge.listing import Kind, Order, Tally, Wanted
from backend.knowledge.sight import Sight
from backend.knowledge.signals import ReaderSignals
from backend.store.database import Database
from backend.store.tables.documents import Chunk, Collection, Document, DocumentState, DocumentVersion

PENDING = listing.READING
CANCELLED = "Cancelled. Retry to read it."
AT_ONCE = 1000
"""Ids in one statement; databases bound how many they take."""


@dataclass(frozen=True)
class Change:
    """How a version differs from the one before: its chunks by what became of them, in order."""

    added: list[str]
    removed: list[str]
    kept: int


class Documents:
    """Documents, their versions and states."""

    def __init__(self, database: Database, signals: ReaderSignals) -> None:
        self._database, self._signals = database, signals

    # ---- reading -------------------------------------------------------------------------------------------------

    def latest(
        self, sight: Sight, collection: str | None = None, *, offset: int = 0, limit: int | None = None
    ) -> list[Document]:
        """Documents, latest first; `limit` of them from `offset` on."""
        return self.listed(Wanted(collection), sight, offset=offset, limit=limit)

    @staticmethod
    def wanted(
        *, collection: str | None = None, words: str = "", kind: str = "", order: str = "newest",
        first: tuple[str, ...] = (),
    ) -> Wanted:  # fmt: skip
        """What a list is to show, by the names of `listing.Kind` ("" for any) and `listing.Order`; see `Wanted`."""
        return Wanted(collection, words, Kind(kind) if kind else None, Order(order), first)

    def listed(self, wanted: Wanted, sight: Sight, *, offset: int = 0, limit: int | None = None) -> list[Document]:
        """The wanted documents in the wanted order; `limit` of them from `offset` on."""
        with self._database.session() as session:
            return listing.page(session, wanted, sight, offset, limit)

    def ids(self, wanted: Wanted, sight: Sight) -> list[str]:
        """The ids of all the wanted documents."""
        with self._database.session() as session:
            return listing.ids(session, wanted, sight)

    def tally(self, sight: Sight) -> Tally:
        """How many there are of each kind."""
        with self._database.session() as session:
            return listing.tally(session, sight)

    @staticmethod
    def is_pending(document: Document) -> bool:
        """Whether its latest version waits to be read, or is being read."""
        return document.state in PENDING

    def count(self, sight: Sight, collection: str | None = None, *, wanted: Wanted | None = None) -> int:
        """How many documents there are, or how many of those wanted."""
        with self._database.session() as session:
            return listing.count(session, wanted or Wanted(collection), sight)

    def searchable(self, sight: Sight, collection: str | None = None) -> set[str] | None:
        """Ids of the documents that have a version in force; None: of all there are, as none is hidden."""
        with self._database.session() as session:
            if collection is None:
                hidden = select(Collection.name).where(~sight.collections())
                if sight.everything or session.exec(hidden.limit(1)).first() is None:
                    return None
            return set(session.exec(select(Document.id).where(sight.documents(collection), *_IN_FORCE)).all())

    def any_searchable(self, sight: Sight) -> bool:
        """Whether any document has a version in force."""
        found = select(Document.id).where(sight.documents(), *_IN_FORCE)
        with self._database.session() as session:
            return bool(session.exec(select(exists(found))).one())

    def get(self, document_id: str, sight: Sight) -> Document:
        """One document.

        Raises:
            NotFoundError: it was deleted, never was, or is not seen.
        """
        with self._database.session() as session:
            return seen_document(session, document_id, sight)

    def chunks(
        self, document_id: str, sight: Sight, number: int | None = None, *, after: int = -1, limit: int | None = None
    ) -> list[Chunk]:
        """The chunks of a document's version (None: the one in force), in order; `limit` of them behind a position.

        Raises:
            NotFoundError: there is no such document.
        """
        with self._database.session() as session:
            build = seen_document(session, document_id, sight).build
            if number is not None:
                version = session.get(DocumentVersion, (document_id, number))
                build = version.build if version else 0
            query = select(Chunk).where(
                Chunk.document_id == document_id, Chunk.build == build, Chunk.position > after
            )
            return list(session.exec(query.order_by(col(Chunk.position)).limit(limit)).all())

    def chunk_ids(self, document_id: str) -> list[str]:
        """Ids of the chunks in force."""
        with self._database.session() as session:
            query = select(Chunk.id).join(Document).where(Document.id == document_id, Chunk.build == Document.build)
            return list(session.exec(query).all())

    def found(self, chunk_ids: list[str], sight: Sight) -> dict[str, tuple[Chunk, Document]]:
        """Chunks in force with their documents, by id; those that are gone, or not seen, are left out."""
        with self._database.session() as session:
            rows = session.exec(
                select(Chunk, Document)
                .join(Document)
                .where(
                    col(Chunk.id).in_(chunk_ids),
                    Chunk.build == Document.build,
                    Document.state != DocumentState.DELETING,
                    sight.documents(),
                )
            ).all()
        return {chunk.id: (chunk, document) for chunk, document in rows}

    def versions(self, document_id: str, sight: Sight) -> list[DocumentVersion]:
        """The versions of a document, latest first.

        Raises:
            NotFoundError: there is no such document.
        """
        with self._database.session() as session:
            seen_document(session, document_id, sight)
            query = select(DocumentVersion).where(DocumentVersion.document_id == document_id)
            return list(session.exec(query.order_by(col(DocumentVersion.number).desc())).all())

    def changes(self, document_id: str, number: int, sight: Sight) -> Change:
        """What a version's text added to and removed from the version before that was read.

        Raises:
            NotFoundError: no such version, or its text is not kept any more.
        """
        readable = [v for v in self.versions(document_id, sight) if v.build and v.number <= number]
        if not readable or readable[0].number != number:
            raise NotFoundError(f"Version {number} has no text to compare.")
        new = self.chunks(document_id, sight, number)
        old = self.chunks(document_id, sight, readable[1].number) if len(readable) > 1 else []
        before, after = {c.text_hash for c in old}, {c.text_hash for c in new}
        return Change(
            added=[c.text for c in new if c.text_hash not in before],
            removed=[c.text for c in old if c.text_hash not in after],
            kept=sum(c.text_hash in before for c in new),
        )

    def pending(self, sight: Sight) -> int:
        """Documents still to be read."""
        with self._database.session() as session:
            query = select(func.count(col(Document.id))).where(col(Document.state).in_(PENDING), sight.documents())
            return session.exec(query).one()

    # ---- changing state ------------------------------------------------------------------------------------------

    def retry(self, document_id: str, sight: Sight) -> None:
        """Read a failed or cancelled document again."""
        self.reread([document_id], sight)

    def reread(self, document_ids: Iterable[str], sight: Sight) -> None:
        """Queue documents to be read anew; what is in force answers meanwhile, and equal chunks keep their vectors.

        Raises:
            NotFoundError: one of them is not there; none is queued then.
        """
        wanted = list(document_ids)
        gone = set(wanted) - set(self._seen(wanted, sight))
        if gone:
            raise NotFoundError(f"There is no document {min(gone)!r}; it may have been deleted.")
        self._change_all(
            wanted, only_from=(DocumentState.READY, DocumentState.FAILED),
            state=DocumentState.QUEUED, reason="", progress=0.0,
        )  # fmt: skip
        self._signals.wake()

    def cancel(self, document_id: str, sight: Sight) -> None:
        """Stop reading a document; a version in force stays, and queued again it is read."""
        self.get(document_id, sight)
        if self.update(document_id, only_from=PENDING, state=DocumentState.FAILED, reason=CANCELLED):
            self._signals.cancel(document_id)

    def delete(self, document_id: str, sight: Sight) -> None:
        """Delete a document in whatever state it is; it disappears at once, its traces a moment later."""
        self.get(document_id, sight)
        self.delete_all([document_id], sight)

    def delete_all(self, document_ids: Iterable[str], sight: Sight) -> int:
        """Delete those of these that are there, as `delete` does each; returns how many were."""
        seen = self._seen(list(document_ids), sight)
        self._change_all(seen, state=DocumentState.DELETING)
        for document_id in seen:
            self._signals.cancel(document_id)
        self._signals.wake()
        return len(seen)

    def update(
        self, document_id: str, *, only_from: tuple[DocumentState, ...] | None = None, **changes: object
    ) -> bool:
        """Change a document's row unless it is being deleted (or not in one of `only_from`); whether it did."""
        return self._change_all([document_id], only_from=only_from, **changes) > 0

    def _change_all(
        self, document_ids: list[str], *, only_from: tuple[DocumentState, ...] | None = None, **changes: object
    ) -> int:
        """As `update`, of many; all or none. Returns how many were changed."""
        values, changed = {**changes, "updated": time.time()}, 0
        with self._database.session() as session:
            for start in range(0, len(document_ids), AT_ONCE):
                some = document_ids[start : start + AT_ONCE]
                change = update(Document).where(col(Document.id).in_(some)).values(**values)
                if changes.get("state") != DocumentState.DELETING:
                    change = change.where(col(Document.state) != DocumentState.DELETING)
                if only_from is not None:
                    change = change.where(col(Document.state).in_(only_from))
                changed += session.connection().execute(change).rowcount
        return changed

    def _seen(self, document_ids: list[str], sight: Sight) -> list[str]:
        """Those of these that are there for whoever sees."""
        out: list[str] = []
        with self._database.session() as session:
            for start in range(0, len(document_ids), AT_ONCE):
                some = col(Document.id).in_(document_ids[start : start + AT_ONCE])
                query = select(Document.id).where(some, Document.state != DocumentState.DELETING, sight.documents())
                out += session.exec(query).all()
        return out


_IN_FORCE = (col(Document.build) > 0, col(Document.state) != DocumentState.DELETING)
