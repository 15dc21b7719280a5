"""A name within a collection is one document's, and what is uploaded to one collection changes no other."""

from __future__ import annotations

import threading

import pytest

from backend.errors import InvalidInputError, NotFoundError
from backend.knowledge.collections import Listed
from backend.knowledge.sight import SHARED
from tests.knowledge.conftest import Knowledge


def test_a_new_version_in_one_collection_changes_no_other(knowledge: Knowledge) -> None:
    north = knowledge.wait(knowledge.upload("gate.txt", "The gate is green.", "north"))
    south = knowledge.wait(knowledge.upload("gate.txt", "The gate is green.", "south"))
    assert south.id != north.id and (south.embedded, south.reused) == (0, 1)
    assert knowledge.upload("gate.txt", "The gate is red.", "south").id == south.id
    knowledge.wait(south)
    assert [chunk.text for chunk in knowledge.documents.chunks(north.id, SHARED)] == ["The gate is green."]
    assert [chunk.text for chunk in knowledge.documents.chunks(south.id, SHARED)] == ["The gate is red."]


def test_a_collection_has_one_document_of_a_name(knowledge: Knowledge) -> None:
    north = knowledge.upload("gate.txt", "The gate is green.", "north")
    knowledge.upload("gate.txt", "The gate is red.", "south")
    with pytest.raises(InvalidInputError, match=r"south already has another document called gate\.txt"):
        knowledge.collections.assign(north.id, ["north", "south"], SHARED)
    assert knowledge.collections.memberships(SHARED, [north.id]) == {north.id: ["north"]}
    assert knowledge.collections.assign(north.id, [" east ", "north"], SHARED) == ["east", "north"]
    with pytest.raises(NotFoundError):
        knowledge.collections.assign("nobody", ["north"], SHARED)


def test_many_who_upload_one_name_at_once_make_one_document(knowledge: Knowledge) -> None:
    made: list[str] = []
    threads = [
        threading.Thread(target=lambda n=n: made.append(knowledge.upload("one.txt", f"Edition {n % 2}.").id))
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(made) == 6 and len(set(made)) == 1 == knowledge.documents.count(SHARED)


def test_a_collection_is_deleted_when_it_is_empty(knowledge: Knowledge) -> None:
    document = knowledge.upload("gate.txt", "The gate is green.", "north")
    with pytest.raises(InvalidInputError, match="still has documents"):
        knowledge.collections.delete("north", SHARED)
    assert knowledge.collections.listed(SHARED) == [Listed("north", 1, private=False)]
    knowledge.documents.delete(document.id, SHARED)
    knowledge.collections.delete("north", SHARED)
    assert knowledge.collections.listed(SHARED) == [] and not knowledge.collections.exists("north", SHARED)


def test_documents_come_a_page_at_a_time(knowledge: Knowledge) -> None:
    ids = [knowledge.upload(f"{i}.txt", f"Number {i}.").id for i in range(5)]
    pages = [knowledge.documents.latest(SHARED, "default", offset=offset, limit=2) for offset in (0, 2, 4)]
    assert [len(page) for page in pages] == [2, 2, 1] and knowledge.documents.count(SHARED, "default") == 5
    assert {row.id for page in pages for row in page} == set(ids)
    assert knowledge.documents.count(SHARED, "none") == 0


def test_what_cannot_be_a_name_is_refused(knowledge: Knowledge) -> None:
    for name, collection in (("", "a"), ("x" * 300, "a"), ("\ud800.txt", "a"), ("a.txt", ""), ("a.txt", "\udfff")):
        with pytest.raises(InvalidInputError):
            knowledge.upload(name, "text", collection)
    assert knowledge.documents.count(SHARED) == 0
