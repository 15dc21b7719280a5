"""Named sets of documents. A document may be in several; within one, a name is one document's."""

from __future__ import annotations

import threading

from sqlalchemy import delete
from sqlmodel import Session, col, exists, func, select

from backend.errors import InvalidInputError, NotFoundError
from backend.store.database import Database
from backend.store.tables import Collection, CollectionDocument, Document, DocumentState

DEFAULT_COLLECTION = "default"
LONGEST_NAME = 100


def collection_name(name: str) -> str:
    """A collection's name as it is kept.

    Raises:
        InvalidInputError: it cannot be used.
    """
    name = name.strip()
    if not 0 < len(name) <= LONGEST_NAME:
        raise InvalidInputError(f"A collection's name has 1 to {LONGEST_NAME} characters.", param="collection")
    return name


class Collections:
    """Collections and who is in them.

    `naming` is held by whoever looks for a name and then puts a document into a collection, so that two at once do not
    make two documents of one name.

    Attributes:
        default: where a document goes that is put nowhere else.
    """

    default = DEFAULT_COLLECTION

    def __init__(self, database: Database) -> None:
        self._database = database
        self.naming = threading.RLock()

    def counts(self) -> dict[str, int]:
        """Collections and how many documents each has, by name."""
        with self._database.session() as session:
            rows = session.exec(
                select(Collection.name, func.count(col(Document.id)))
                .select_from(Collection)
                .outerjoin(CollectionDocument, col(CollectionDocument.collection) == col(Collection.name))
                .outerjoin(
                    Document,
                    (col(Document.id) == col(CollectionDocument.document_id))
                    & (col(Document.state) != DocumentState.DELETING),
                )
                .group_by(col(Collection.name))
                .order_by(col(Collection.name))
            ).all()
        return dict(rows)

    def exists(self, name: str) -> bool:
        """Whether there is a collection of this name."""
        with self._database.session() as session:
            return bool(session.exec(select(exists(select(Collection.name).where(Collection.name == name)))).one())

    def memberships(self, document_ids: list[str] | None = None) -> dict[str, list[str]]:
        """Collections of every document (or of these), by its id."""
        out: dict[str, list[str]] = {}
        with self._database.session() as session:
            query = select(CollectionDocument).order_by(col(CollectionDocument.collection))
            if document_ids is not None:
                query = query.where(col(CollectionDocument.document_id).in_(document_ids))
            for row in session.exec(query).all():
                out.setdefault(row.document_id, []).append(row.collection)
        return out

    def set(self, document_id: str, names: list[str]) -> list[str]:
        """Put a document into these collections and no others; nothing is read again. Returns their names, sorted.

        Raises:
            InvalidInputError: none, a name that cannot be used, or one that has another document of this name.
            NotFoundError: there is no such document.
        """
        wanted = {collection_name(name) for name in names}
        if not wanted:
            raise InvalidInputError("A document is in at least one collection.", param="collections")
        with self.naming, self._database.session() as session:
            document = session.get(Document, document_id)
            if document is None or document.state == DocumentState.DELETING:
                raise NotFoundError(f"There is no document {document_id!r}.")
            for name in sorted(wanted):
                other = named(session, document.name, name)
                if other is not None and other.id != document_id:
                    raise InvalidInputError(
                        f"{name} already has another document called {document.name}. Delete one of them first, or "
                        "upload the file under another name.",
                        param="collections",
                    )
            rows = session.exec(select(CollectionDocument).where(CollectionDocument.document_id == document_id)).all()
            for row in rows:
                if row.collection not in wanted:
                    session.delete(row)
            for name in wanted - {row.collection for row in rows}:
                add(session, document_id, name)
        return sorted(wanted)

    def delete(self, name: str) -> None:
        """Delete an empty collection.

        Raises:
            InvalidInputError: it has documents.
        """
        with self.naming, self._database.session() as session:
            members = (
                select(Document.id)
                .join(CollectionDocument)
                .where(CollectionDocument.collection == name, Document.state != DocumentState.DELETING)
            )
            if session.exec(members.limit(1)).first() is not None:
                raise InvalidInputError(f"{name} still has documents. Move or delete them first.")
            session.connection().execute(
                delete(Collection).where(col(Collection.name) == name, ~members.exists())
            )


def named(session: Session, name: str, collection: str) -> Document | None:
    """The document of a name in a collection."""
    return session.exec(
        select(Document)
        .join(CollectionDocument)
        .where(
            CollectionDocument.collection == collection,
            Document.name == name,
            Document.state != DocumentState.DELETING,
        )
    ).first()


def add(session: Session, document_id: str, collection: str) -> None:
    """Put a document into a collection, which is made if it does not exist."""
    if session.get(Collection, collection) is None:
        session.add(Collection(name=collection))
        session.flush()
    if session.get(CollectionDocument, (collection, document_id)) is None:
        session.add(CollectionDocument(collection=collection, document_id=document_id))
