"""A prompt over passages leaves room for its answer, and says what it left out."""

from __future__ import annotations

from typing import Any

from backend.knowledge.grounding import Grounding, Passage, fitted


def words(messages: list[dict[str, str]]) -> int:
    return sum(len(message["content"].split()) for message in messages)


PASSAGES = [Passage(f"c{i}", "d", "d.md", i, f"passage{i} " * 100, 1.0 - i / 10) for i in range(4)]
HISTORY = [{"role": role, "content": f"turn{i} " * 50} for i, role in enumerate(["user", "assistant"] * 3)]


def ground(answer: int | None, context: int = 1000, history: Any = HISTORY) -> Grounding:
    return fitted("Why?", history, PASSAGES, "", count=words, context=context, answer=answer, corpus="7")


def test_everything_is_there_where_it_fits() -> None:
    grounding = ground(None, context=5000)
    assert (grounding.left_out_turns, grounding.left_out_passages, grounding.notice) == (0, 0, "")
    assert len(grounding.messages) == 8 and len(grounding.citations) == len(grounding.passages) == 4
    assert grounding.corpus == "7"


def test_the_longer_the_answer_may_be_the_less_is_put_before_it() -> None:
    for answer in (100, 400, 700):
        grounding = ground(answer)
        assert words(grounding.messages) + answer <= 1000
        assert [c["chunk_id"] for c in grounding.citations] == [f"c{i}" for i in range(len(grounding.passages))]
    assert ground(100).left_out_turns < 6 and ground(700).left_out_turns == 6
    assert ground(700).left_out_passages == 2 and "6 earlier turns and 2 passages" in ground(700).notice


def test_the_oldest_turns_go_first_and_what_is_left_begins_with_a_question() -> None:
    odd = [{"role": "user", "content": "lost " * 50}, *HISTORY]
    grounding = ground(250, history=odd)
    kept = grounding.messages[1:-1]
    assert kept and kept[0]["role"] == "user" and kept[-1] == HISTORY[-1]
    assert grounding.left_out_passages == 0 and grounding.left_out_turns == len(odd) - len(kept)


def test_the_question_and_the_best_passage_stay() -> None:
    grounding = ground(5000)
    assert [c["chunk_id"] for c in grounding.citations] == ["c0"] and "Why?" in grounding.messages[-1]["content"]
