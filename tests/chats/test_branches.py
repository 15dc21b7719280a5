"""What was asked and answered before stays on a branch of its own; a chat keeps its settings and its next questions."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backend.chats.conversations import ChatOptions, ChatSettings, Conversations
from backend.errors import InvalidInputError
from backend.knowledge.sight import SHARED
from backend.store.database import Database
from backend.store.tables.chats import CutAnswer
from tests.conftest import until
from tests.generation.conftest import Room

NO_DOCUMENTS: Any = SimpleNamespace()


@pytest.fixture
def chats(room: Room) -> Conversations:
    return Conversations(room.database, room.service, NO_DOCUMENTS)


def answered(room: Room, chats: Conversations, chat: str, text: str) -> None:
    """Have the answer being written say something."""
    (request,) = until(lambda: room.engine.open, "the engine is asked")
    room.engine.answer(request, text)
    until(lambda: chats.busy(chat) is None, "it has ended")


def texts(chats: Conversations, chat: str) -> list[str]:
    return [message.text for message in chats.messages(chat)]


def test_an_edited_question_keeps_the_branch_that_was(room: Room, chats: Conversations) -> None:
    chat = chats.create().id
    for question, reply in (("One", " First."), ("Two", " Second.")):
        chats.ask(chat, question, ChatOptions())
        answered(room, chats, chat, reply)
    first, _, second, _ = chats.messages(chat)
    chats.edit(second.id, "Three", ChatOptions())
    answered(room, chats, chat, " Third.")
    assert texts(chats, chat) == ["One", "First.", "Three", "Third."]
    branch = chats.branch(chat)
    edited = branch.turns[2]
    assert branch.beside[edited.id] == (second.id, edited.id) and branch.beside[first.id] == (first.id,)
    chats.show(second.id)
    assert texts(chats, chat) == ["One", "First.", "Two", "Second."]
    chats.ask(chat, "Four", ChatOptions())
    answered(room, chats, chat, " Fourth.")
    assert texts(chats, chat)[2:] == ["Two", "Second.", "Four", "Fourth."]
    chats.show(edited.id)
    assert texts(chats, chat)[2:] == ["Three", "Third."]
    chats.show(second.id)
    assert texts(chats, chat)[2:] == ["Two", "Second.", "Four", "Fourth."], "a branch is found where it was left"
    prompt = room.engine.text.decode(room.engine.asked[-1].prompt)
    assert "Two" in prompt and "Three" not in prompt


def test_the_first_question_can_be_edited_too(room: Room, chats: Conversations) -> None:
    chat = chats.create().id
    chats.ask(chat, "One", ChatOptions())
    answered(room, chats, chat, " First.")
    chats.edit(chats.messages(chat)[0].id, "Uno", ChatOptions())
    answered(room, chats, chat, " Primo.")
    assert texts(chats, chat) == ["Uno", "Primo."]
    assert len(chats.branch(chat).beside[chats.messages(chat)[0].id]) == 2


def test_an_earlier_answer_is_kept_beside_another(room: Room, chats: Conversations) -> None:
    chat = chats.create().id
    for question in ("One", "Two"):
        chats.ask(chat, question, ChatOptions())
        answered(room, chats, chat, f" To {question}.")
    before = chats.messages(chat)
    chats.regenerate(before[1].id, ChatOptions())
    answered(room, chats, chat, " Otherwise.")
    assert texts(chats, chat) == ["One", "Otherwise."], "what followed the first answer follows it alone"
    chats.show(before[1].id)
    assert texts(chats, chat) == ["One", "To One.", "Two", "To Two."]


def test_questions_sent_meanwhile_are_asked_in_turn(room: Room, chats: Conversations) -> None:
    chat = chats.create().id
    for question in ("One", "Two", "Three"):
        chats.send(chat, question, ChatOptions())
    two, three = chats.waiting(chat)
    assert (two.text, three.text) == ("Two", "Three") and texts(chats, chat) == ["One", ""]
    chats.withdraw(chat, three.id)
    (request,) = until(lambda: room.engine.open, "the engine is asked")
    room.engine.answer(request, " First.")
    until(lambda: len(texts(chats, chat)) == 4, "the next is asked")
    answered(room, chats, chat, " Second.")
    assert texts(chats, chat) == ["One", "First.", "Two", "Second."] and chats.waiting(chat) == ()


@pytest.mark.parametrize("press", ["regenerate", "edit"])
def test_another_way_is_gone_while_an_answer_is_being_written(
    room: Room, chats: Conversations, press: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = chats.create().id
    chats.ask(chat, "One", ChatOptions())
    answered(room, chats, chat, " First.")
    half = chats.ask(chat, "Two", ChatOptions())
    (request,) = until(lambda: room.engine.open, "the engine is asked")
    room.engine.write(request, " Half")
    chats.send(chat, "Three", ChatOptions())
    abort, aborted = room.engine.abort, []
    monkeypatch.setattr(room.engine, "abort", aborted.append)  # it takes its time
    one, first, *_ = chats.messages(chat)
    if press == "regenerate":
        new = chats.regenerate(first.id, ChatOptions())
    else:
        new = chats.edit(one.id, "Uno", ChatOptions())
    assert aborted == [request] and chats.busy(chat) is chats.writing(new.id)
    assert [m.state for m in chats.messages(chat)] == ["done", "writing"]
    until(lambda: len(room.engine.open) == 2, "the engine is asked while it still stops the other")
    with pytest.raises(InvalidInputError, match="still being written"):
        chats.ask(chat, "Meanwhile", ChatOptions())
    abort(request)
    until(lambda: chats.writing(half.id) is None, "the other has ended")
    (request,) = room.engine.open
    room.engine.answer(request, " Otherwise.")
    until(lambda: len(texts(chats, chat)) == 4, "the question that waited is asked")
    answered(room, chats, chat, " Third.")
    assert texts(chats, chat)[1:] == ["Otherwise.", "Three", "Third."]
    chats.show(half.id)
    stopped = chats.messages(chat)[-1]
    assert (stopped.id, stopped.text, stopped.state) == (half.id, "Half", "stopped")


def test_a_question_that_waits_never_comes_between(room: Room, chats: Conversations) -> None:
    chat = chats.create().id
    chats.ask(chat, "One", ChatOptions())
    for _ in range(20):
        chats.send(chat, "Next", ChatOptions())
        asked = chats.messages(chat)[0]
        chats.edit(asked.id, "Uno", ChatOptions())
        assert [m.text for m in chats.messages(chat)] == ["Uno", ""]
    assert [waiting.text for waiting in chats.waiting(chat)] == ["Next"] * 20


def test_an_answer_that_came_to_its_end_is_not_written_on(room: Room, chats: Conversations) -> None:
    chat = chats.create().id
    message = chats.ask(chat, "One", ChatOptions())
    answered(room, chats, chat, " First.")
    assert not chats.can_go_on(chats.messages(chat)[-1])
    with pytest.raises(InvalidInputError, match="cannot be written on"):
        chats.go_on(message.id, ChatOptions())


def test_another_model_does_not_write_an_answer_on(room: Room, chats: Conversations) -> None:
    chat = chats.create().id
    message = chats.ask(chat, "One", ChatOptions())
    (request,) = until(lambda: room.engine.open, "the engine is asked")
    room.engine.write(request, " Once upon")
    chats.stop(chat)
    assert room.database.writer.flush(30) and chats.can_go_on(chats.messages(chat)[-1])
    with room.database.session() as session:
        cut = session.get(CutAnswer, message.id)
        assert cut is not None and cut.text == " Once upon"
        cut.fingerprint = "another"
        session.add(cut)
    assert not chats.can_go_on(chats.messages(chat)[-1])
    with pytest.raises(InvalidInputError, match="Another model"):
        chats.go_on(message.id, ChatOptions())


def test_settings_stay_with_their_conversation(room: Room, chats: Conversations) -> None:
    mine, other = chats.create(settings=ChatSettings(temperature=0.7, collection="mine")), chats.create()
    chats.set(other.id, ChatSettings(system="Be brief.", grounded=False))
    again = Conversations(room.database, room.service, NO_DOCUMENTS)
    assert again.settings(mine.id) == ChatSettings(temperature=0.7, collection="mine")
    assert again.settings(other.id) == ChatSettings(system="Be brief.", grounded=False)
    assert chats.options(chats.settings(mine.id), SHARED, searchable=True).collection == "mine"
    assert chats.options(chats.settings(mine.id), SHARED, searchable=False).collection is None
    assert chats.options(chats.settings(other.id), SHARED, searchable=True).collection is None


def test_chats_from_before_branches_are_one_branch_each(tmp_path: Path, room: Room) -> None:
    database = Database(f"sqlite:///{tmp_path / 'old.sqlite3'}")
    database.migrate("0006")
    with database.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO conversation (id, title, tenant, created, updated) "
            "VALUES ('c', 'x', '', 1, 1), ('e', 'y', '', 1, 1)"
        )
        for row in ("('a', 0, 'user')", "('b', 1, 'assistant')", "('d', 4, 'user')", "('f', 5, 'assistant')"):
            connection.exec_driver_sql(
                "INSERT INTO message (id, position, role, conversation_id, text, state, error, details, created) "
                f"SELECT *, 'c', 'text', 'done', '', '{{}}', 1 FROM (VALUES {row})"
            )
    database.migrate()
    old = Conversations(database, room.service, NO_DOCUMENTS)
    assert [m.id for m in old.messages("c")] == ["a", "b", "d", "f"] and old.messages("e") == []
    assert old.get("c").leaf == "f" and old.settings("c") == ChatSettings()
    old.edit("d", "Otherwise", ChatOptions())
    answered(room, old, "c", " So.")
    assert [m.text for m in old.messages("c")] == ["text", "text", "Otherwise", "So."]
    database.close()
