"""Two tabs, a database that takes nothing, and chats that outgrow the context: a chat goes on and loses no word."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backend.chats.conversations import ChatOptions, Conversations
from backend.errors import InvalidInputError
from backend.knowledge.grounding import Grounding
from backend.models.text import TextModel
from backend.store.database import Database
from tests.conftest import until
from tests.generation.conftest import Room

ALTERNATING = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}[INST] {{ message['content'] }} [/INST]{% else %}{{ message['content'] }}"
    "{{ eos_token }}{% endif %}{% endfor %}"
)  # Mistral's


def nothing(*_: Any) -> Grounding:
    raise AssertionError("no documents are asked for")


NO_DOCUMENTS: Any = SimpleNamespace(ground=nothing)


@pytest.fixture
def chats(room: Room) -> Conversations:
    return Conversations(room.database, room.service, NO_DOCUMENTS)


@pytest.fixture
def locked(room: Room) -> Iterator[sqlite3.Connection]:
    """A connection that can hold the database's write lock."""
    other = sqlite3.connect(room.database.engine.url.database or "", isolation_level=None)
    yield other
    other.close()


def asked(room: Room, count: int) -> str:
    """The id of the `count`-th request, once the engine has it."""
    until(lambda: len(room.engine.asked) >= count, "the engine is asked")
    return room.engine.asked[count - 1].request_id


def test_two_tabs_asking_at_once_get_one_answer(room: Room, chats: Conversations) -> None:
    chat = chats.create()
    together, outcomes = threading.Barrier(8), []

    def ask(number: int) -> None:
        together.wait()
        try:
            outcomes.append(chats.ask(chat.id, f"Question {number}", ChatOptions()))
        except InvalidInputError as error:
            outcomes.append(error)

    tabs = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for tab in tabs:
        tab.start()
    for tab in tabs:
        tab.join()
    assert len([o for o in outcomes if not isinstance(o, InvalidInputError)]) == 1
    assert [(m.position, m.role) for m in chats.messages(chat.id)] == [(0, "user"), (1, "assistant")]


def test_another_server_on_the_database_cannot_double_a_turn(room: Room, chats: Conversations) -> None:
    theirs = Conversations(Database(room.database.url), room.service, NO_DOCUMENTS)
    chat = chats.create()
    chats.ask(chat.id, "Ours", ChatOptions())
    rows = chats.messages(chat.id)
    with pytest.raises(InvalidInputError, match="still being written"), theirs._turn(chat.id) as (session, _, _):
        session.add(type(rows[0])(conversation_id=chat.id, position=1, role="user", text="Theirs"))
    assert [m.text for m in chats.messages(chat.id)] == ["Ours", ""]


def test_an_answer_the_database_does_not_take_is_shown_from_memory_and_stored_later(
    room: Room, chats: Conversations, locked: sqlite3.Connection
) -> None:
    chat = chats.create()
    message = chats.ask(chat.id, "Hello", ChatOptions())
    request = asked(room, 1)
    generation = chats.writing(message.id)
    assert generation is not None
    locked.execute("BEGIN IMMEDIATE")
    room.engine.answer(request, " Here I am.")
    assert generation.wait(30), "its readers wait for a database that is away"
    assert chats.writing(message.id) is None and chats.busy(chat.id) is None
    shown = chats.messages(chat.id)[-1]
    assert (shown.text, shown.state) == ("Here I am.", "done") and "busy" in shown.details["unstored"]
    locked.execute("ROLLBACK")
    assert room.ledger.flush(30)
    with sqlite3.connect(room.database.engine.url.database or "") as stored:
        assert stored.execute("select text, state from message where role = 'assistant'").fetchall() == [
            ("Here I am.", "done")
        ]
        outcomes = stored.execute("select outcome from ledger_entry where kind = 'generate'").fetchall()
        assert outcomes == [("stop",)], "a row of the ledger was lost"
    assert "unstored" not in chats.messages(chat.id)[-1].details


def test_the_engines_reader_never_waits_for_the_database(
    room: Room, chats: Conversations, locked: sqlite3.Connection
) -> None:
    chat = chats.create()
    chats.ask(chat.id, "Hello", ChatOptions())
    request = asked(room, 1)
    threads: set[str] = set()
    original = room.database.engine.connect
    room.database.engine.connect = lambda *a, **k: threads.add(threading.current_thread().name) or original(*a, **k)  # type: ignore[method-assign]
    reader = threading.Thread(target=room.engine.answer, args=(request,), name="reader")
    reader.start()
    reader.join()
    assert room.database.writer.flush(30)
    assert "background-writer" in threads and "reader" not in threads


def test_a_question_whose_answer_failed_joins_the_next(tmp_path: Path, chat_folder: Path) -> None:
    folder = tmp_path / "alternating"
    shutil.copytree(chat_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "chat_template.jinja").write_text(ALTERNATING)
    text = TextModel(folder)
    room = Room(tmp_path, text)
    chats = Conversations(room.database, room.service, NO_DOCUMENTS)
    chat = chats.create()
    chats.ask(chat.id, "One?", ChatOptions())
    room.engine.fail(asked(room, 1), "The engine stopped.")
    until(lambda: chats.messages(chat.id)[-1].state == "failed", "the answer failed")
    chats.ask(chat.id, "Two?", ChatOptions())
    room.engine.answer(asked(room, 2))
    until(lambda: chats.messages(chat.id)[-1].state == "done", "the next is answered")
    assert "[INST] One?\n\nTwo? [/INST]" in text.tokenizer.decode(room.engine.asked[1].prompt)
    room.close()


def test_a_chat_beyond_the_context_goes_on_and_says_what_was_left_out(tmp_path: Path, text: TextModel) -> None:
    room = Room(tmp_path, text, context=256)
    chats = Conversations(room.database, room.service, NO_DOCUMENTS)
    chat = chats.create()
    for number in range(1, 7):
        chats.ask(chat.id, f"Question {number}: " + "word " * 40, ChatOptions(max_tokens=32))
        room.engine.answer(asked(room, number))
        until(lambda: chats.messages(chat.id)[-1].state == "done", "it is answered")
    left_out = [m.details.get("left_out", 0) for m in chats.messages(chat.id) if m.role == "assistant"]
    assert left_out[0] == 0 and left_out[-1] >= 4
    prompt = text.tokenizer.decode(room.engine.asked[-1].prompt)
    assert "Question 6" in prompt and "Question 1" not in prompt
    room.close()
