"""A text is embedded once whoever asks, what one caller gives up another takes over, and what nobody needs goes."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from backend.errors import InvalidInputError
from backend.knowledge.sight import SHARED
from tests.conftest import until
from tests.knowledge.conftest import Knowledge

TEXT = "The kelp grows two feet a day."


def asking(knowledge: Knowledge, out: list[Any], **more: Any) -> threading.Thread:
    def work() -> None:
        try:
            out.append(knowledge.embeddings.embed([TEXT], source="test", **more))
        except BaseException as error:
            out.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_two_who_ask_for_one_text_at_once_are_one_call_of_the_engine(knowledge: Knowledge) -> None:
    knowledge.engine.gate.clear()
    out: list[Any] = []
    first = asking(knowledge, out)
    until(lambda: knowledge.engine.calls, "the first has asked the engine")
    waiting = knowledge.embeddings._claim
    claims: list[int] = []
    knowledge.embeddings._claim = lambda keys: (claims.append(1), waiting(keys))[1]  # type: ignore[method-assign]
    second = asking(knowledge, out)
    until(lambda: claims, "the second has looked for who computes it")
    knowledge.engine.gate.set()
    first.join(60)
    second.join(60)
    assert len(knowledge.engine.calls) == 1
    assert sorted(result.computed for result in out) == [0, 1]
    assert (out[0].vectors == out[1].vectors).all()


def test_who_waits_for_a_cancelled_read_computes_the_text_itself(knowledge: Knowledge) -> None:
    def cancelled(*_: int) -> None:
        raise KeyError("cancelled")

    knowledge.engine.gate.clear()
    out: list[Any] = []
    # 70 texts are two messages; the cancellation comes between them.
    many = [f"Sentence {i} speaks of kelp." for i in range(70)]

    def read() -> None:
        with pytest.raises(KeyError):
            knowledge.embeddings.embed([*many, TEXT], source="ingest", progress=cancelled)

    reading = threading.Thread(target=read)
    reading.start()
    until(lambda: len(knowledge.engine.calls) == 2, "the read has claimed the text")
    api = asking(knowledge, out)
    knowledge.engine.gate.set()
    reading.join(60)
    api.join(60)
    assert not isinstance(out[0], BaseException) and len(out[0].vectors) == 1


def test_vectors_of_deleted_documents_can_be_forgotten(knowledge: Knowledge) -> None:
    kept = knowledge.wait(knowledge.upload("kept.txt", "It stays where it is."))
    gone = knowledge.wait(knowledge.upload("gone.txt", "It goes away for good."))
    knowledge.documents.delete(gone.id, SHARED)
    until(lambda: len(knowledge.index.graph) == 1, "it has gone")
    assert knowledge.embeddings.kept.statistics().entries == 2
    assert knowledge.embeddings.forget_unused() == 1
    assert knowledge.embeddings.kept.statistics().entries == 1
    knowledge.documents.reread([kept.id], SHARED)
    assert knowledge.wait(kept).embedded in (0, 1)
    assert len(knowledge.engine.calls) == 2, "the vector that was kept is used"


def test_uses_are_counted_without_anybody_waiting_for_it(knowledge: Knowledge) -> None:
    for _ in range(3):
        knowledge.embeddings.embed([TEXT, TEXT], source="test")
    assert until(lambda: knowledge.embeddings.kept.statistics().hits, "uses are counted") > 0
    until(lambda: knowledge.embeddings.kept.statistics().hits >= 4, "every use is counted")


def test_half_a_character_is_refused(knowledge: Knowledge) -> None:
    with pytest.raises(InvalidInputError, match="half a character"):
        knowledge.embeddings.embed(["a \ud800 b"], source="test")
