"""What a caller does not see is to them as if it were not there, whatever they ask; and no cache gives it away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from backend.access.caller import LOCAL, STRANGER, Caller, Role
from backend.engine.messages import SamplingParams
from backend.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError, TenfoldError
from backend.generation.grounded import grounded_request
from backend.generation.stream import Generation
from backend.knowledge import vectors
from backend.knowledge.collections import Listed
from backend.knowledge.plan import Planner
from backend.knowledge.retrieve import Retriever
from backend.knowledge.search import MODES
from backend.knowledge.sight import SHARED, Sight, sight_of
from backend.knowledge.vectors import VectorIndex
from backend.models.text import TextModel
from backend.store.tables.documents import Collection, Document
from tests.conftest import until
from tests.generation.conftest import Room
from tests.knowledge.conftest import Knowledge

ME, THEM, ADMIN = Sight("me"), Sight("them"), Sight("root", everything=True)
SECRET, OPEN = "The key lies under the third stone.", "The gate is green."
SEES = {"me": ME, "an administrator": ADMIN}
SEES_NOT = {"another": THEM, "a job": SHARED, "a stranger": sight_of(STRANGER)}


class House:
    """A document of everybody's, and one of mine alone."""

    def __init__(self, knowledge: Knowledge, text: TextModel) -> None:
        self.knowledge, self.documents, self.collections = knowledge, knowledge.documents, knowledge.collections
        self.open = knowledge.wait(knowledge.upload("gate.txt", OPEN))
        self.collections.define("diary", ME, private=True)
        self.secret = knowledge.wait(knowledge.upload("key.txt", SECRET, "diary", ME))
        engine: Any = knowledge.engine
        texts: Any = SimpleNamespace(text=lambda: text)
        self.retriever = Retriever(
            knowledge.documents, knowledge.collections, knowledge.embeddings, knowledge.index,
            knowledge.builder.index_version, texts, engine,
        )  # fmt: skip

    def found(self, sight: Sight, question: str = SECRET, collection: str | None = None, **more: Any) -> set[str]:
        """The texts that a search shows."""
        found = self.retriever.find(question, collection, sight, source="test", **more)
        return {hit.text for hit in self.retriever.hits(found, 10, sight)}


@pytest.fixture
def house(knowledge: Knowledge, text: TextModel) -> House:
    return House(knowledge, text)


def test_what_a_search_computes_is_its_keys(house: House) -> None:
    for sight, key in ((ME, "mine"), (THEM, "theirs")):
        house.retriever.ground("Where is the key?", [], None, "", sight, source="console", key_id=key)
        assert house.knowledge.asked[-1].key_id == key and house.knowledge.asked[-1].source == "console"


def names(documents: list[Document]) -> set[str]:
    return {document.name for document in documents}


def test_who_sees_what() -> None:
    assert sight_of(LOCAL).everything and sight_of(Caller("k", "t", Role.ADMIN)) == Sight("t", everything=True)
    for role in (Role.USER, Role.READ_ONLY):
        assert sight_of(Caller("k", "t", role)) == Sight("t")


@pytest.mark.parametrize("who", SEES | SEES_NOT)
def test_what_is_listed_is_what_is_seen(house: House, who: str) -> None:
    sight, sees = (SEES | SEES_NOT)[who], who in SEES
    assert names(house.documents.latest(sight)) == ({"gate.txt", "key.txt"} if sees else {"gate.txt"})
    assert house.documents.count(sight) == 1 + sees
    assert house.documents.count(sight, "diary") == len(house.documents.latest(sight, "diary")) == sees
    assert house.documents.any_searchable(sight)
    listed = [Listed("default", 1, private=False), Listed("diary", 1, private=True)]
    assert house.collections.listed(sight) == [row for row in listed if sees or not row.private]
    assert house.collections.exists("diary", sight) == sees
    memberships = {house.open.id: ["default"]} | ({house.secret.id: ["diary"]} if sees else {})
    assert house.collections.memberships(sight) == memberships
    rooms: Any = (
        SimpleNamespace(version=lambda: "another"),
        SimpleNamespace(embedding_rate=lambda: 1.0),
        SimpleNamespace(current=SimpleNamespace(per_hour=1.0)),
    )
    planner = Planner(house.knowledge.database, *rooms)
    for plan in (planner.stale(sight), planner.everything(sight)):
        assert set(plan.documents) == set(memberships) and plan.chunks == len(memberships)
    house.knowledge.signals.cancel(house.secret.id)
    house.documents.update(house.secret.id, state="parsing")
    assert house.documents.pending(sight) == sees


ONE: dict[str, Callable[[House, str, Sight], Any]] = {
    "get": lambda house, document, sight: house.documents.get(document, sight),
    "chunks": lambda house, document, sight: house.documents.chunks(document, sight),
    "chunks of a version": lambda house, document, sight: house.documents.chunks(document, sight, 1),
    "versions": lambda house, document, sight: house.documents.versions(document, sight),
    "changes": lambda house, document, sight: house.documents.changes(document, 1, sight),
    "retry": lambda house, document, sight: house.documents.retry(document, sight),
    "reread": lambda house, document, sight: house.documents.reread([house.open.id, document], sight),
    "cancel": lambda house, document, sight: house.documents.cancel(document, sight),
    "delete": lambda house, document, sight: house.documents.delete(document, sight),
    "assign": lambda house, document, sight: house.collections.assign(document, ["default"], sight),
}


def refusal(do: Callable[[], Any]) -> tuple[type[TenfoldError], str]:
    with pytest.raises(TenfoldError) as refused:
        do()
    return type(refused.value), refused.value.message


@pytest.mark.parametrize("what", ONE)
def test_a_document_that_is_not_seen_is_not_there(house: House, what: str) -> None:
    for sight in SEES_NOT.values():
        absent = refusal(lambda: ONE[what](house, "absent", sight))  # noqa: B023
        hidden = refusal(lambda: ONE[what](house, house.secret.id, sight))  # noqa: B023
        assert absent[0] is NotFoundError and (hidden[0], hidden[1].replace(house.secret.id, "absent")) == absent
    assert house.documents.get(house.secret.id, ME).state == house.documents.get(house.open.id, ME).state == "ready"
    ONE[what](house, house.secret.id, ME)


@pytest.mark.parametrize("mode", MODES)
def test_a_search_reaches_nothing_that_is_not_seen(house: House, mode: str) -> None:
    own = set(house.documents.chunk_ids(house.open.id))
    for sight in SEES_NOT.values():
        found = house.retriever.find(SECRET, None, sight, mode=mode, source="test")
        assert {scored.chunk_id for scored in found.scored} <= own and found.total == 1
        assert {end for step in found.steps for end in (step.source, step.target)} <= own
    for sight in SEES.values():
        assert SECRET in house.found(sight, mode=mode)
        assert house.found(sight, collection="diary", mode=mode) == {SECRET}


def test_a_collection_that_is_not_seen_cannot_be_asked(house: House) -> None:
    for ask in (
        lambda name: house.found(THEM, collection=name),
        lambda name: house.retriever.ground("Where?", [], name, "", THEM, source="test"),
        lambda name: house.collections.delete(name, THEM),
    ):
        absent = refusal(lambda: ask("absent"))  # noqa: B023
        hidden = refusal(lambda: ask("diary"))  # noqa: B023
        assert "There is no collection" in absent[1]
        assert (hidden[0], hidden[1].replace("diary", "absent")) == absent


def test_what_becomes_hidden_during_a_search_is_not_shown(house: House) -> None:
    found = house.retriever.find(SECRET, None, ADMIN, source="test")
    assert {hit.text for hit in house.retriever.hits(found, 10, THEM)} == {OPEN}


def test_all_are_searched_at_once_where_nothing_is_hidden(knowledge: Knowledge) -> None:
    knowledge.wait(knowledge.upload("gate.txt", OPEN, "north"))
    assert knowledge.documents.searchable(THEM) is None
    knowledge.collections.define("diary", ME, private=True)
    assert knowledge.documents.searchable(ME) is None and knowledge.documents.searchable(ADMIN) is None
    assert len(knowledge.documents.searchable(THEM) or ()) == 1


def test_more_documents_than_one_query_can_name_are_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = VectorIndex(tmp_path / "chroma")
    index.open("model")
    rows = np.eye(6, dtype=np.float32) + 0.1 * np.arange(6, dtype=np.float32)[:, None]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    names = [f"d{i}" for i in range(6)]
    index.add([f"c{i}" for i in range(6)], rows, names)
    whole = index.query(rows[4], 3, names)
    monkeypatch.setattr(vectors, "MOST_NAMED", 2)
    assert [chunk for chunk, _ in index.query(rows[4], 3, names)] == [chunk for chunk, _ in whole]
    assert index.query(rows[4], 3, names[:1])[0][0] == "c0" and index.query(rows[4], 3, []) == []


def test_a_name_that_a_private_collection_has_cannot_be_taken(house: House) -> None:
    before = house.documents.count(ADMIN)
    for take in (
        lambda: house.knowledge.upload("mine.txt", "Mine.", "diary", THEM),
        lambda: house.collections.assign(house.open.id, ["default", "diary"], THEM),
        lambda: house.collections.define("diary", THEM, private=True),
        lambda: house.collections.define("diary", THEM, private=False),
    ):
        kind, message = refusal(take)
        assert kind is ConflictError and "'diary' is taken by a private collection" in message
    assert house.documents.count(ADMIN) == before and house.documents.count(ME, "diary") == 1
    assert house.collections.memberships(ADMIN, [house.open.id]) == {house.open.id: ["default"]}


def test_assigning_leaves_what_is_not_seen_as_it_is(house: House) -> None:
    house.collections.assign(house.open.id, ["default", "diary"], ME)
    house.collections.define("theirs", THEM, private=True)
    assert house.collections.assign(house.open.id, ["theirs"], THEM) == ["theirs"]
    assert house.collections.memberships(ADMIN)[house.open.id] == ["diary", "theirs"]
    assert names(house.documents.latest(ME)) == {"gate.txt", "key.txt"}
    assert names(house.documents.latest(THEM)) == {"gate.txt"}
    assert house.documents.latest(SHARED) == []


def test_what_everybody_sees_is_hidden_by_an_administrator_alone(house: House) -> None:
    house.knowledge.upload("tide.txt", "High at noon.", "harbour", THEM)
    with pytest.raises(ForbiddenError, match="Ask an administrator"):
        house.collections.define("harbour", ME, private=True)
    assert house.collections.define("harbour", ADMIN, private=True) == Listed("harbour", 1, private=True)
    assert not house.collections.exists("harbour", THEM)
    assert house.collections.define("harbour", ADMIN, private=False) == Listed("harbour", 1, private=False)
    for sight, name in ((ADMIN, "default"), (SHARED, "new")):
        with pytest.raises(InvalidInputError, match="everybody's"):
            house.collections.define(name, sight, private=True)
    assert house.collections.define("empty", ME, private=False) == Listed("empty", 0, private=False)
    assert house.collections.define("empty", THEM, private=True) == Listed("empty", 0, private=True)


def test_an_administrator_takes_nobodys_collection(house: House) -> None:
    house.collections.define("diary", ADMIN, private=True)
    with house.knowledge.database.session() as session:
        diary = session.get(Collection, "diary")
        assert diary is not None and diary.tenant == "me"


class Desk:
    """Asks over the documents for a tenant, with both answer caches on."""

    def __init__(self, house: House, room: Room) -> None:
        self.house, self.room = house, room
        room.engine.switches = replace(room.engine.switches, semantic_cache=True)
        house.knowledge.engine.info = replace(house.knowledge.engine.info, max_model_len=2048)

    def ask(self, sight: Sight, tenant: str, question: str = SECRET) -> Generation:
        grounding = self.house.retriever.ground(question, [], None, "", sight, source="test")
        request = grounded_request(
            grounding, sampling=SamplingParams(temperature=0.0), tenant=tenant, question=question, likeness_scope="x"
        )
        return self.room.service.start(self.room.service.prepare(request))

    def answered(self, sight: Sight, tenant: str) -> None:
        kept = self.room.answers.statistics().entries
        generation = self.ask(sight, tenant)
        self.room.engine.answer(generation.id, " Under the third stone.")
        until(lambda: self.room.ledger.flush() and self.room.answers.statistics().entries > kept, "it is kept")
        again = self.ask(sight, tenant)
        assert again.cache_mark is not None and {c["text"] for c in again.citations} >= {SECRET}


@pytest.fixture
def desk(house: House, room: Room) -> Desk:
    return Desk(house, room)


def test_an_answer_over_a_private_collection_is_its_owners(desk: Desk) -> None:
    desk.answered(ME, "me")
    for sight, tenant in ((THEM, "them"), (SHARED, ""), (SHARED, "me"), (THEM, "me")):
        other = desk.ask(sight, tenant, question=OPEN)  # every question is alike here
        assert other.cache_mark is None and {c["text"] for c in other.citations} <= {OPEN}


def test_an_administrators_answer_is_not_given_to_a_user_of_the_same_owner(desk: Desk) -> None:
    desk.answered(Sight("them", everything=True), "them")
    assert desk.ask(THEM, "them", question=OPEN).cache_mark is None


@pytest.mark.parametrize("loss", ["the collection is another's", "the document is"])
def test_an_answer_is_not_given_any_more_once_its_documents_are_lost(desk: Desk, loss: str) -> None:
    collections = desk.house.collections
    desk.answered(ME, "me")
    if loss == "the document is":
        collections.define("theirs", THEM, private=True)
        collections.assign(desk.house.secret.id, ["theirs"], ADMIN)
    else:
        collections.define("diary", ADMIN, private=False)
        collections.define("diary", replace(ADMIN, tenant="them"), private=True)
    other = desk.ask(ME, "me", question=OPEN)
    assert other.cache_mark is None and {c["text"] for c in other.citations} <= {OPEN}
