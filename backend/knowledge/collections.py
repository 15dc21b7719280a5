"""Named sets of documents. A document may be in several; within one, a name is one document's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import delete
from sqlmodel import Session, col, func, select
from sqlmodel.sql.expression import SelectOfScalar

from backend.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from backend.knowledge.sight import Sight
from backend.store.database import Database
from backend.store.tables.documents import Collection, CollectionDocument, Document, DocumentState

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


@dataclass(frozen=True)
class Listed:
    """A collection as it is listed: how many documents it has, and whether it is one tenant's alone."""

    name: str
    documents: int
    private: bool


class Collections:
    """Collections, which documents are in them, and whose they are.

    Attributes:
        default: where a document goes that is put nowhere else.
    """

    default = DEFAULT_COLLECTION

    def __init__(self, database: Database) -> None:
        self._database = database
        self._naming = threading.Lock()

    @contextmanager
    def naming(self) -> Iterator[Session]:
        """A session to look for a name in and take it, one at a time: two at once would make two documents of one."""
        with self._naming, self._database.session() as session:
            yield session

    def listed(self, sight: Sight) -> list[Listed]:
        """The collections that are seen, by name."""
        with self._database.session() as session:
            rows = session.exec(
                select(Collection.name, func.count(col(Document.id)), col(Collection.tenant).is_not(None))
                .select_from(Collection)
                .outerjoin(CollectionDocument, col(CollectionDocument.collection) == col(Collection.name))
                .outerjoin(
                    Document,
                    (col(Document.id) == col(CollectionDocument.document_id))
                    & (col(Document.state) != DocumentState.DELETING),
                )
                .where(sight.collections())
                .group_by(col(Collection.name))
                .order_by(col(Collection.name))
            ).all()
        return [Listed(name, count, bool(private)) for name, count, private in rows]

    def exists(self, name: str, sight: Sight) -> bool:
        """Whether a collection of this name is seen."""
        with self._database.session() as session:
            return _seen(session, name, sight) is not None

    def memberships(self, sight: Sight, document_ids: list[str] | None = None) -> dict[str, list[str]]:
        """The collections that are seen of every document (or of these), by its id."""
        out: dict[str, list[str]] = {}
        with self._database.session() as session:
            query = select(CollectionDocument).join(Collection).where(sight.collections())
            query = query.order_by(col(CollectionDocument.collection))
            if document_ids is not None:
                query = query.where(col(CollectionDocument.document_id).in_(document_ids))
            for row in session.exec(query).all():
                out.setdefault(row.document_id, []).append(row.collection)
        return out

    def define(self, name: str, sight: Sight, *, private: bool) -> Listed:
        """Make a collection, or make one private to whoever sees with `sight`, or everybody's (again).

        Raises:
            InvalidInputError: a name that cannot be used, or the default collection, which is everybody's.
            ConflictError: somebody else's private collection has this name.
            ForbiddenError: it would take from others what everybody sees, which an administrator may.
        """
        name = collection_name(name)
        if private and (name == self.default or sight.tenant is None):
            raise InvalidInputError(f"The collection {name} is everybody's. Make another one.", param="private")
        with self.naming() as session:
            refuse_taken(session, name, sight)
            collection = session.get(Collection, name) or Collection(name=name)
            documents = session.exec(select(func.count()).select_from(_members(name).subquery())).one()
            if private and collection.tenant is None:
                if documents and not sight.everything:
                    raise ForbiddenError(
                        f"{name} has documents that everybody sees. Ask an administrator, or make another collection.",
                        param="private", code="insufficient_role",
                    )  # fmt: skip
                collection.tenant = sight.tenant
            elif not private:
                collection.tenant = None
            session.add(collection)
        return Listed(name, documents, private)

    def assign(self, document_id: str, names: list[str], sight: Sight) -> list[str]:
        """Put a document into these of the collections that are seen; those that are not seen keep it.

        Nothing is read again. Returns the names, sorted.

        Raises:
            InvalidInputError: none, a name that cannot be used, or one that has another document of this name.
            NotFoundError: there is no such document.
            ConflictError: somebody else's private collection has one of the names.
        """
        wanted = {collection_name(name) for name in names}
        if not wanted:
            raise InvalidInputError("A document is in at least one collection.", param="collections")
        with self.naming() as session:
            document = seen_document(session, document_id, sight)
            for name in sorted(wanted):
                refuse_taken(session, name, sight)
                other = named(session, document.name, name)
                if other is not None and other.id != document_id:
                    raise InvalidInputError(
                        f"{name} already has another document called {document.name}. Delete one of them first, or "
                        "upload the file under another name.",
                        param="collections",
                    )
            query = select(CollectionDocument).join(Collection).where(CollectionDocument.document_id == document_id)
            rows = session.exec(query.where(sight.collections())).all()
            for row in rows:
                if row.collection not in wanted:
                    session.delete(row)
            for name in wanted - {row.collection for row in rows}:
                add(session, document_id, name)
        return sorted(wanted)

    def release(self, name: str, sight: Sight) -> list[str]:
        """Take out of a collection what others have too; returns the ids of the documents that are in it alone.

        Raises:
            NotFoundError: there is no such collection.
        """
        with self.naming() as session:
            if _seen(session, name, sight) is None:
                raise NotFoundError(f"There is no collection {name!r}.")
            elsewhere = select(CollectionDocument.document_id).where(CollectionDocument.collection != name)
            shared = col(CollectionDocument.document_id).in_(elsewhere)
            session.connection().execute(
                delete(CollectionDocument).where(col(CollectionDocument.collection) == name, shared)
            )
            return list(session.exec(_members(name)).all())

    def delete(self, name: str, sight: Sight) -> None:
        """Delete an empty collection.

        Raises:
            InvalidInputError: it has documents.
            NotFoundError: there is no such collection.
        """
        with self.naming() as session:
            if _seen(session, name, sight) is None:
                raise NotFoundError(f"There is no collection {name!r}.")
            members = _members(name)
            if session.exec(members.limit(1)).first() is not None:
                raise InvalidInputError(f"{name} still has documents. Move or delete them first.")
            session.connection().execute(
                delete(Collection).where(col(Collection.name) == name, ~members.exists())
            )


def _seen(session: Session, name: str, sight: Sight) -> Collection | None:
    return session.exec(select(Collection).where(Collection.name == name, sight.collections())).first()


def _members(collection: str) -> SelectOfScalar[str]:
    return (
        select(Document.id)
        .join(CollectionDocument)
        .where(CollectionDocument.collection == collection, Document.state != DocumentState.DELETING)
    )


def refuse_taken(session: Session, name: str, sight: Sight) -> None:
    """Refuse a name to be written into that a collection has which is not seen.

    Raises:
        ConflictError: says so, since the name cannot be used.
    """
    if session.get(Collection, name) is not None and _seen(session, name, sight) is None:
        raise ConflictError(f"The name {name!r} is taken by a private collection. Choose another.", param="collection")


def seen_document(session: Session, document_id: str, sight: Sight) -> Document:
    """A document that is seen.

    Raises:
        NotFoundError: it was deleted, never was, or is in no collection that is seen.
    """
    query = select(Document).where(Document.id == document_id, Document.state != DocumentState.DELETING)
    document = session.exec(query.where(sight.documents())).first()
    if document is None:
        raise NotFoundError(f"There is no document {document_id!r}; it may have been deleted.")
    return document


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
