"""The one thread that reads: a cancellation is of one read, and no error ends the thread, spins or holds up others."""

from __future__ import annotations

import errno
import sqlite3
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event

from backend.errors import UnavailableError
from backend.knowledge.reader import ReaderPhase
from backend.knowledge.sight import SHARED
from backend.knowledge.signals import ReaderSignals
from tests.conftest import until
from tests.knowledge.conftest import Knowledge

LONG = "\n\n".join(
    f"Paragraph {i} tells of the harvest at farm {i * 13}, which was neither good nor bad." for i in range(300)
)


def held_in_the_middle(knowledge: Knowledge, text: str = LONG) -> Any:
    knowledge.engine.gate.clear()
    document = knowledge.upload("harvest.txt", text)
    until(lambda: knowledge.engine.calls, "it is being embedded")
    return document


@pytest.mark.parametrize("text", [LONG, LONG + " And more."], ids=["the same file", "a changed file"])
def test_a_cancelled_document_that_is_uploaded_again_is_read(
    knowledge: Knowledge, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = held_in_the_middle(knowledge)
    knowledge.documents.cancel(document.id, SHARED)
    assert knowledge.upload("harvest.txt", text).id == document.id
    after = knowledge.upload("after.txt", "What comes after it is read as well.")
    turns: list[int] = []
    turn = knowledge.reader._turn
    monkeypatch.setattr(knowledge.reader, "_turn", lambda: (turns.append(1), turn())[1])
    knowledge.engine.gate.set()
    knowledge.wait(document)
    knowledge.wait(after)
    knowledge.wait_phase(ReaderPhase.IDLE)
    assert len(turns) < 10, "the reader looked for work again and again"
    shown = " ".join(chunk.text for chunk in knowledge.documents.chunks(document.id, SHARED))
    assert ("And more." in shown) == (text != LONG)


def test_a_cancelled_document_stays_cancelled_until_it_is_retried(knowledge: Knowledge) -> None:
    document = held_in_the_middle(knowledge)
    knowledge.documents.cancel(document.id, SHARED)
    knowledge.engine.gate.set()
    knowledge.wait_phase(ReaderPhase.IDLE)
    cancelled = knowledge.documents.get(document.id, SHARED)
    assert (cancelled.state, cancelled.reason) == ("failed", "Cancelled. Retry to read it.")
    assert len(knowledge.index.graph) == 0 and not knowledge.index.vectors.ids() and not knowledge.index.keywords.ids()
    knowledge.documents.retry(document.id, SHARED)
    assert knowledge.wait(document).chunk_count == len(knowledge.index.graph) > 0


def test_a_newer_upload_ends_the_read_of_the_older(knowledge: Knowledge) -> None:
    document = held_in_the_middle(knowledge)
    knowledge.upload("harvest.txt", "Short now.")
    knowledge.engine.gate.set()
    assert knowledge.wait(document).chunk_count == 1


def test_a_locked_database_is_waited_out(knowledge: Knowledge) -> None:
    with sqlite3.connect(knowledge.settings.data_dir / "tenfold.sqlite3", isolation_level=None) as other:
        document = held_in_the_middle(knowledge)
        other.execute("BEGIN IMMEDIATE")
        knowledge.engine.gate.set()
        knowledge.wait_phase(ReaderPhase.WAITING, lambda: len(knowledge.pauses) > 2)
        assert "busy" in knowledge.reader.state.detail
        assert knowledge.pauses[:3] == sorted(knowledge.pauses[:3]) and knowledge.pauses[2] > knowledge.pauses[0]
        other.execute("ROLLBACK")
    other.close()
    knowledge.wait(document)
    knowledge.wait_phase(ReaderPhase.IDLE)
    chunks = knowledge.documents.get(document.id, SHARED).chunk_count
    assert len(knowledge.index.graph) == chunks, "the first try left nothing"


def test_a_full_disk_is_waited_out(knowledge: Knowledge, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(np, "savez", full)
        first = knowledge.wait(knowledge.upload("first.txt", "This one fits."))
        knowledge.wait_phase(ReaderPhase.WAITING, lambda: "disk is full" in knowledge.reader.state.detail)
        second = knowledge.upload("second.txt", "It is read all the same: the graph's file is no part of it.")
        knowledge.wait(second)
    knowledge.wait_phase(ReaderPhase.IDLE)
    assert list(knowledge.settings.index_dir.glob("graph-*.npz")) and knowledge.state(first) == "ready"


def test_an_engine_that_goes_away_is_waited_for_and_a_document_that_ends_it_fails(knowledge: Knowledge) -> None:
    knowledge.engine.failures = [UnavailableError("gone")] * 2
    assert knowledge.wait(knowledge.upload("patient.txt", "Read at the third try.")).embedded == 1
    knowledge.engine.failures = [UnavailableError("gone")] * 3
    assert "gone" in knowledge.wait(knowledge.upload("poison.txt", "It ends the engine."), "failed").reason
    knowledge.wait(knowledge.upload("healthy.txt", "It does not."))


def test_an_engine_that_is_not_there_fails_nothing(knowledge: Knowledge) -> None:
    knowledge.engine.present = False
    first, second = (knowledge.upload(f"{name}.txt", f"The {name} waits.") for name in ("first", "second"))
    turns: list[int] = []
    turn = knowledge.reader._turn
    knowledge.reader._turn = lambda: (turns.append(1), turn())[1]  # type: ignore[method-assign]
    knowledge.wait_phase(ReaderPhase.WAITING, lambda: len(turns) > 3)
    assert "no such tensor" in knowledge.reader.state.detail
    assert (knowledge.state(first), knowledge.state(second)) == ("queued", "queued")
    knowledge.engine.present = True
    knowledge.wait(first)
    knowledge.wait(second)


@pytest.mark.parametrize("what", ["deleted", "changed", "cancelled"])
def test_what_is_said_while_a_build_comes_into_force_holds(knowledge: Knowledge, what: str) -> None:
    document = held_in_the_middle(knowledge)
    said: list[str] = []

    def just_before(_: Any, __: Any, statement: str, *___: Any) -> None:
        if statement.startswith("UPDATE document SET") and "chunk_count" in statement and not said:
            said.append(what)
            if what == "deleted":
                knowledge.documents.delete(document.id, SHARED)
            elif what == "cancelled":
                knowledge.documents.cancel(document.id, SHARED)
            else:
                knowledge.upload("harvest.txt", "Short now.")

    event.listen(knowledge.database.engine, "before_cursor_execute", just_before)
    knowledge.engine.gate.set()
    until(lambda: said, "the build comes into force")
    knowledge.wait_phase(ReaderPhase.IDLE)
    if what == "deleted":
        assert knowledge.documents.latest(SHARED) == []
    elif what == "cancelled":
        assert knowledge.documents.get(document.id, SHARED).reason == "Cancelled. Retry to read it."
    else:
        assert [chunk.text for chunk in knowledge.documents.chunks(document.id, SHARED)] == ["Short now."]


def test_an_unexpected_error_fails_its_document_alone_and_keeps_its_words_in_the_log(knowledge: Knowledge) -> None:
    knowledge.engine.failures = [RuntimeError("SELECT secret FROM chunk")]
    failed = knowledge.wait(knowledge.upload("odd.txt", "Odd."), "failed")
    assert "SELECT" not in failed.reason and "log" in failed.reason
    knowledge.wait(knowledge.upload("even.txt", "Even."))


def test_a_deletion_that_fails_holds_up_nobody(knowledge: Knowledge, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = knowledge.wait(knowledge.upload("stuck.txt", "It will not go."))
    erase = knowledge.builder.removal.erase
    tries: list[int] = []

    def broken(document: Any) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("the vector index is out of order")
        erase(document)

    monkeypatch.setattr(knowledge.builder.removal, "erase", broken)
    knowledge.documents.delete(stuck.id, SHARED)
    until(lambda: tries, "it was tried")
    knowledge.wait(knowledge.upload("next.txt", "It is read."))
    assert len(tries) == 1, "it is not tried again at once"
    knowledge.reader._put_off[stuck.id] = 0.0  # the time has come
    knowledge.signals.wake()
    until(lambda: len(knowledge.index.graph) == 1, "it has gone")


def test_the_reader_says_that_it_has_stopped(knowledge: Knowledge) -> None:
    knowledge.wait_phase(ReaderPhase.IDLE)
    knowledge.reader.close()
    assert knowledge.reader.state.phase == ReaderPhase.STOPPED


def test_a_token_is_of_one_read() -> None:
    signals = ReaderSignals()
    first = signals.begin("a")
    signals.cancel("b")
    assert not first.cancelled
    signals.cancel("a")
    signals.end()
    assert first.cancelled and not signals.begin("a").cancelled


def test_what_a_kill_left_is_swept_at_the_start(tmp_path: Any, tokenizer: Any) -> None:
    made = Knowledge(tmp_path / "data", tokenizer)
    half, orphan = made.settings.files_dir / "tmpabc", made.settings.files_dir / ("0" * 64)
    half.write_bytes(b"half")
    orphan.write_bytes(b"nobody's")
    kept = made.upload("kept.txt", "Kept.")
    made.start()
    try:
        made.wait(kept)
        assert not half.exists() and not orphan.exists() and made.blobs.names() == {kept.sha256}
    finally:
        made.close()


def test_an_index_that_could_not_be_opened_is_opened_later(
    tmp_path: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Knowledge(tmp_path / "data", tokenizer)
    made.reader.start()
    document = made.upload("early.txt", "It waits for the index.")
    opened, tries = made.index.keywords.open, []

    def refusing() -> None:
        tries.append(made.index.problem)
        if len(tries) < 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        opened()

    monkeypatch.setattr(made.index.keywords, "open", refusing)
    try:
        made.index.keep_opening("f" * 16, 16, lambda _: None, lambda _: False)
        assert "disk is full" in tries[1] and len(tries) == 3 and not made.index.problem
        made.wait(document)
    finally:
        made.close()
