"""A request is prepared once, refused where too much waits, and ends in one row and one count whatever its ending."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from backend.engine.messages import BATCH
from backend.errors import ContextLengthError, InvalidInputError, OverloadedError, UnavailableError
from backend.generation.request import TextRequest
from backend.generation.stream import CacheKind, Generation
from backend.models.text import TextModel
from backend.store.tables.answers import Answer
from backend.store.tables.usage import EntryRow
from tests.conftest import until
from tests.generation.conftest import Room


def hello(**more: Any) -> TextRequest:
    return TextRequest(messages=[{"role": "user", "content": "Hello"}], **more)


def begin(room: Room, request: TextRequest) -> Generation:
    return room.service.start(room.service.prepare(request))


def rows(room: Room) -> list[EntryRow]:
    assert room.ledger.flush()
    with room.database.session() as session:
        return list(session.exec(select(EntryRow)).all())


def counted(room: Room, reason: str) -> float:
    value = room.metrics.registry.get_sample_value(
        "vllm:request_success_total", {"model_name": "model", "engine": "0", "finished_reason": reason}
    )
    return value or 0.0


def test_a_request_is_rendered_and_tokenized_once(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[int] = []
    original = TextModel.render_chat
    monkeypatch.setattr(TextModel, "render_chat", lambda self, m: rendered.append(1) or original(self, m))
    generation = begin(room, hello())
    room.engine.answer(generation.id)
    assert generation.wait(5) and len(rendered) == 1


def test_beyond_the_bound_a_request_is_refused_and_told_when_to_come_again(tmp_path: Path, text: TextModel) -> None:
    room = Room(tmp_path, text, most=2)
    waiting = [begin(room, hello()) for _ in range(2)]
    with pytest.raises(OverloadedError, match="2 requests wait") as refused:
        begin(room, hello())
    assert refused.value.status == 429 and refused.value.retry_after >= 1
    begin(room, hello(path=BATCH))  # the other path has a line of its own
    room.engine.answer(waiting[0].id)
    room.service.cancel(waiting[1])
    assert all(generation.wait(5) for generation in waiting)
    assert len([begin(room, hello(fresh=True)) for _ in range(2)]) == 2
    room.close()


def test_a_failed_request_is_a_row_and_a_count(room: Room) -> None:
    generation = begin(room, hello(source="api"))
    room.engine.fail(generation.id, "The engine stopped while it was answering.")
    assert generation.wait(5) and isinstance(generation.error, UnavailableError)
    (row,) = rows(room)
    assert (row.outcome, row.request_id, row.source, row.cost) == ("error", generation.id, "api", 0)
    assert row.prompt_tokens == len(room.engine.asked[0].prompt) and counted(room, "error") == 1


def test_a_request_that_fails_before_it_reaches_the_engine_is_counted_too(room: Room) -> None:
    def make() -> TextRequest:
        raise UnavailableError("The model is being loaded.")

    generation = Generation(TextRequest(source="console"))
    room.service.start_in_background(generation, make)
    assert generation.wait(5)
    assert [row.outcome for row in rows(room)] == ["error"] and counted(room, "error") == 1


def test_a_reply_without_the_model_is_a_row_that_cost_nothing(room: Room) -> None:
    generation = begin(room, TextRequest(reply="I don't know."))
    assert generation.text == "I don't know." and generation.account is not None
    (row,) = rows(room)
    assert (row.outcome, row.cost, row.compute_ns) == ("reply", 0, 0) and counted(room, "stop") == 1


def test_every_ending_has_vllms_name(room: Room) -> None:
    stopped, aborted = begin(room, hello()), begin(room, hello())
    room.engine.answer(stopped.id)
    room.service.cancel(aborted)
    until(lambda: room.ledger.flush() and room.answers.statistics().entries, "the answer is kept")
    assert begin(room, hello()).cache_mark is not None
    assert (counted(room, "stop"), counted(room, "abort"), counted(room, "cached")) == (2, 1, 0)


def test_two_tenants_share_no_answer(room: Room) -> None:
    room.engine.switches = replace(room.engine.switches, semantic_cache=True)
    first = begin(room, hello(tenant="one", question="Hello", likeness_scope="x"))
    room.engine.answer(first.id, " Secret.")
    until(lambda: room.ledger.flush() and room.answers.statistics().entries, "the answer is kept")
    again = begin(room, hello(tenant="one", question="Hello", likeness_scope="x"))
    assert again.cache_mark is not None and again.text == first.text
    other = begin(room, hello(tenant="two", question="Hello", likeness_scope="x"))
    assert other.cache_mark is None and not other.ended


def test_the_answer_to_a_like_question_says_so_and_brings_what_it_quoted(room: Room) -> None:
    room.engine.switches = replace(room.engine.switches, semantic_cache=True)
    theirs, ours = ({"number": 1, "text": "old"},), ({"number": 1, "text": "new"},)
    first = begin(
        room,
        hello(question="When does it open?", likeness_scope="x", citations=theirs, source="job", path=BATCH),
    )
    room.engine.answer(first.id)
    until(lambda: room.ledger.flush() and room.answers.statistics().entries, "the answer is kept")
    assert room.embedded == [("When does it open?", "job", BATCH)], "embedded for somebody else"
    like = begin(
        room,
        TextRequest(text="At what time?", question="At what time does it open?", likeness_scope="x", citations=ours),
    )
    assert like.ended and like.citations == theirs
    assert like.cache_mark is not None and like.cache_mark.kind is CacheKind.SEMANTIC
    assert like.cache_mark.as_dict() == {
        "kind": "semantic", "question": "When does it open?", "similarity": "1.000"
    }  # fmt: skip


def test_an_answer_that_saw_other_pages_come_is_not_kept(room: Room) -> None:
    first = begin(room, hello())
    room.engine.switches = replace(room.engine.switches, kv_cache="int8")
    room.engine.answer(first.id)
    assert room.database.writer.flush(30)
    second = begin(room, hello())
    assert not second.ended, "half of it is of other pages"
    room.engine.answer(second.id)
    assert room.database.writer.flush(30)
    third = begin(room, hello())
    assert third.ended and third.cache_mark is not None
    assert room.answers.statistics().entries == 1


def test_a_cache_that_cannot_be_asked_refuses_nothing(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise InvalidInputError("An input text is empty.", param="input")

    room.engine.switches = replace(room.engine.switches, semantic_cache=True)
    monkeypatch.setattr(room.answers, "like", broken)
    monkeypatch.setattr(room.answers, "get", broken)
    generation = begin(room, hello(question=" ", likeness_scope="x"))
    assert not generation.ended and generation.error is None, "the engine is asked"


def test_nothing_is_embedded_while_the_semantic_cache_is_off(room: Room) -> None:
    generation = begin(room, hello(question="Hello", likeness_scope="x", path=BATCH))
    room.engine.answer(generation.id)
    until(lambda: room.ledger.flush() and room.answers.statistics().entries, "the answer is kept")
    with room.database.session() as session:
        assert session.exec(select(Answer.vector)).all() == [None]
    assert room.embedded == []


def test_a_request_is_refused_by_name(room: Room) -> None:
    with pytest.raises(InvalidInputError, match=r"U\+D83D, half of a character"):
        room.service.prepare(TextRequest(messages=[{"role": "user", "content": "a\ud83d"}]))
    with pytest.raises(InvalidInputError, match=r"U\+D83D"):
        room.service.prepare(TextRequest(text="a\ud83d"))
    with pytest.raises(ContextLengthError, match="maximum context length is 2048"):
        room.service.prepare(TextRequest(text="word " * 3000))


def test_the_oldest_turns_are_left_out_until_a_chat_fits(tmp_path: Path, text: TextModel) -> None:
    room = Room(tmp_path, text, context=300)
    turns = [{"role": ("user", "assistant")[i % 2], "content": f"turn {i} " + "word " * 30} for i in range(21)]
    messages = [{"role": "system", "content": "Be brief."}, *turns]
    with pytest.raises(ContextLengthError):
        room.service.prepare(TextRequest(messages=messages, max_tokens=40))
    prepared = room.service.prepare(TextRequest(messages=messages, max_tokens=40, trim=True))
    assert len(prepared.token_ids) <= 260 and prepared.left_out and prepared.left_out % 2 == 0
    assert prepared.token_ids == text.encode_chat([messages[0], *turns[prepared.left_out :]])
    wider = text.encode_chat([messages[0], *turns[prepared.left_out - 2 :]])
    assert len(wider) > 260, "more was left out than had to be"
    assert room.service.prepare(replace(prepared.request, messages=turns[:1])).left_out == 0
    room.close()
