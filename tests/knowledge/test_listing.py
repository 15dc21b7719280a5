"""A list of documents is sought, filtered, sorted and paged where they are kept; many are changed at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.errors import NotFoundError
from backend.knowledge.collections import Collections
from backend.knowledge.documents import Documents
from backend.knowledge.listing import Kind, Order, Tally, Wanted
from backend.knowledge.sight import SHARED, Sight
from backend.knowledge.signals import ReaderSignals
from backend.store.database import Database
from backend.store.tables.documents import Collection, CollectionDocument, Document, DocumentState

ME = Sight("me")


class Shelf:
    """Documents that nobody reads, as rows."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.documents, self.collections = Documents(database, ReaderSignals()), Collections(database)

    def put(self, name: str, *collections: str, tenant: str | None = None, **facts: object) -> str:
        document = Document(**{"name": name, "sha256": name, "size": 1, "state": DocumentState.READY, **facts})
        with self.database.session() as session:
            session.add(document)
            session.flush()
            for collection in collections or ("default",):
                session.merge(Collection(name=collection, tenant=tenant))
                session.flush()
                session.add(CollectionDocument(collection=collection, document_id=document.id))
        return document.id

    def names(self, wanted: Wanted, sight: Sight = SHARED, **more: int) -> list[str]:
        return [document.name for document in self.documents.listed(wanted, sight, **more)]


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    database = Database(f"sqlite:///{tmp_path / 'shelf.sqlite'}")
    database.migrate()
    yield Shelf(database)
    database.engine.dispose()


def test_a_list_is_sought_by_every_word_in_whatever_case(shelf: Shelf) -> None:
    for name in ("Harbour rules 2024.pdf", "rules of chess.md", "100%_sure.txt"):
        shelf.put(name)
    assert shelf.names(Wanted(words="RULES harb")) == ["Harbour rules 2024.pdf"]
    assert shelf.names(Wanted(words="0%_s")) == ["100%_sure.txt"]
    assert shelf.names(Wanted(words="%")) == ["100%_sure.txt"], "signs of a pattern are letters here"


def test_a_list_is_sorted_and_paged_and_the_latest_uploads_stay_on_top(shelf: Shelf) -> None:
    for number, name in enumerate(("b", "C", "a")):
        shelf.put(name, created=float(number), size=10 - number, chunk_count=number % 2)
    assert shelf.names(Wanted()) == ["a", "C", "b"]
    assert shelf.names(Wanted(order=Order.OLDEST)) == ["b", "C", "a"]
    assert shelf.names(Wanted(order=Order.NAME)) == ["a", "b", "C"]
    assert shelf.names(Wanted(order=Order.LARGEST)) == ["b", "C", "a"]
    assert shelf.names(Wanted(order=Order.CHUNKS))[0] == "C"
    assert shelf.names(Wanted(order=Order.NAME), offset=1, limit=1) == ["b"]
    again = shelf.documents.ids(Wanted(words="b"), SHARED)
    assert shelf.names(Wanted(first=tuple(again))) == ["b", "a", "C"]


def test_a_list_shows_only_what_is_wanted_and_seen(shelf: Shelf) -> None:
    shelf.put("tides.md", "harbour")
    shelf.put("broken.pdf", state=DocumentState.FAILED)
    shelf.put("new.md", state=DocumentState.PARSING)
    shelf.put("gone.md", state=DocumentState.DELETING)
    shelf.put("diary.md", "mine", tenant="me")
    assert shelf.names(Wanted(kind=Kind.FAILED)) == ["broken.pdf"]
    assert shelf.names(Wanted(kind=Kind.READING)) == ["new.md"]
    assert shelf.names(Documents.wanted(kind="failed", words="PDF", order="name")) == ["broken.pdf"]
    assert shelf.names(Wanted("harbour")) == ["tides.md"]
    assert shelf.names(Wanted("mine")) == [] and shelf.names(Wanted("mine"), ME) == ["diary.md"]
    assert shelf.documents.count(SHARED, wanted=Wanted(words="md")) == 2


def test_documents_are_counted_by_what_became_of_them(shelf: Shelf) -> None:
    assert shelf.documents.tally(SHARED) == Tally()
    shelf.put("a", build=1, chunk_count=3)
    shelf.put("b", build=2, chunk_count=4, state=DocumentState.FAILED)
    shelf.put("c", state=DocumentState.QUEUED, chunk_count=9)
    shelf.put("d", state=DocumentState.FAILED)
    shelf.put("hidden", "mine", tenant="me", build=1, chunk_count=100)
    assert shelf.documents.tally(SHARED) == Tally(documents=4, answering=2, reading=1, failed=2, chunks=7)


def test_many_are_deleted_at_once_and_those_gone_or_hidden_are_passed_over(shelf: Shelf) -> None:
    ids = [shelf.put(str(number)) for number in range(2100)]
    hidden = shelf.put("hidden", "mine", tenant="me")
    kept = ids.pop()
    shelf.documents.delete(ids[0], SHARED)
    assert shelf.documents.delete_all([*ids, hidden, "nobody"], SHARED) == len(ids) - 1
    assert set(shelf.documents.ids(Wanted(), ME)) == {kept, hidden}


def test_many_are_read_again_or_none(shelf: Shelf) -> None:
    ids = [shelf.put("a"), shelf.put("b", state=DocumentState.FAILED, reason="It broke.")]
    with pytest.raises(NotFoundError, match="nobody"):
        shelf.documents.reread([*ids, "nobody"], SHARED)
    assert shelf.documents.pending(SHARED) == 0
    shelf.documents.reread(ids, SHARED)
    assert shelf.documents.pending(SHARED) == 2
    assert all(not document.reason for document in shelf.documents.latest(SHARED))


def test_a_collection_gives_up_what_others_have_too(shelf: Shelf) -> None:
    alone, shared = shelf.put("a.md", "north"), shelf.put("b.md", "north", "south")
    with pytest.raises(NotFoundError):
        shelf.collections.release("nowhere", SHARED)
    assert shelf.collections.release("north", SHARED) == [alone]
    assert shelf.collections.memberships(SHARED) == {alone: ["north"], shared: ["south"]}
