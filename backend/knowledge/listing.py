"""Which documents a list shows, and in what order: sought by name, of some states, a page at a time, and how many."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import case
from sqlmodel import Session, col, func, select

from backend.knowledge.sight import Sight
from backend.store.tables.documents import Document, DocumentState

READING = (DocumentState.QUEUED, DocumentState.PARSING, DocumentState.EMBEDDING)
"""Those that are being read, or wait for it."""


class Kind(StrEnum):
    """What became of a document."""

    READY = "ready"
    READING = "reading"
    FAILED = "failed"


class Order(StrEnum):
    """What a list is sorted by."""

    NEWEST = "newest"
    OLDEST = "oldest"
    NAME = "name"
    LARGEST = "largest"
    CHUNKS = "chunks"


@dataclass(frozen=True)
class Wanted:
    """Which documents are to be listed.

    Attributes:
        collection: those in it; None: in any.
        words: each is somewhere in the name, in whatever case.
        kind: those of this one; None: of any.
        first: ids that come before all others, however they are sorted.
    """

    collection: str | None = None
    words: str = ""
    kind: Kind | None = None
    order: Order = Order.NEWEST
    first: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tally:
    """Documents by what became of them, and the chunks in force."""

    documents: int = 0
    answering: int = 0
    reading: int = 0
    failed: int = 0
    chunks: int = 0


def page(session: Session, wanted: Wanted, sight: Sight, offset: int, limit: int | None) -> list[Document]:
    """The wanted documents that are seen; `limit` of them from `offset` on."""
    query = select(Document).where(*_conditions(wanted, sight)).order_by(*_sorted(wanted))
    return list(session.exec(query.offset(offset).limit(limit)).all())


def ids(session: Session, wanted: Wanted, sight: Sight) -> list[str]:
    """The ids of all the wanted documents that are seen."""
    return list(session.exec(select(Document.id).where(*_conditions(wanted, sight)).order_by(*_sorted(wanted))).all())


def count(session: Session, wanted: Wanted, sight: Sight) -> int:
    """How many they are."""
    return session.exec(select(func.count(col(Document.id))).where(*_conditions(wanted, sight))).one()


def tally(session: Session, sight: Sight) -> Tally:
    """Of all documents that are seen."""
    answers = case((col(Document.build) > 0, 1), else_=0)
    rows = session.exec(
        select(Document.state, func.count(), func.sum(answers), func.sum(answers * Document.chunk_count))
        .where(*_conditions(Wanted(), sight))
        .group_by(col(Document.state))
    ).all()
    return Tally(
        documents=sum(row[1] for row in rows),
        answering=sum(int(row[2]) for row in rows),
        reading=sum(row[1] for row in rows if row[0] in READING),
        failed=sum(row[1] for row in rows if row[0] == DocumentState.FAILED),
        chunks=sum(int(row[3]) for row in rows),
    )


def _conditions(wanted: Wanted, sight: Sight) -> list[Any]:
    out: list[Any] = [Document.state != DocumentState.DELETING, sight.documents(wanted.collection)]
    out += [col(Document.name).icontains(word, autoescape=True) for word in wanted.words.split()]
    if wanted.kind is not None:
        out.append(col(Document.state).in_(_STATES[wanted.kind]))
    return out


def _sorted(wanted: Wanted) -> list[Any]:
    orders: dict[Order, list[Any]] = {
        Order.NEWEST: [col(Document.created).desc()],
        Order.OLDEST: [col(Document.created)],
        Order.NAME: [func.lower(col(Document.name)), col(Document.name)],
        Order.LARGEST: [col(Document.size).desc()],
        Order.CHUNKS: [col(Document.chunk_count).desc()],
    }
    first = [case((col(Document.id).in_(wanted.first), 0), else_=1)] if wanted.first else []
    return [*first, *orders[wanted.order], col(Document.id)]


_STATES = {Kind.READY: (DocumentState.READY,), Kind.READING: READING, Kind.FAILED: (DocumentState.FAILED,)}
