"""A batch from its file to its result files, in whatever way it ends."""

from __future__ import annotations

import json
import time

import pytest
from sqlmodel import col, func, select, update

from backend.batches import runner
from backend.errors import BudgetError, ConflictError, NotFoundError
from backend.store.database import Database
from backend.store.tables.batches import Batch, BatchLine, BatchResult, BatchStatus
from backend.store.tables.files import StoredFile
from tests.batches.standin import Bench, line, lines
from tests.conftest import until
from tests.jobs.standin import StandIn


def test_every_request_is_answered_and_counted(bench: Bench, answers: StandIn, database: Database) -> None:
    batch = bench.create(lines(*(f"prompt {i}" for i in range(300))), metadata={"of": "mine"})
    assert batch.status is BatchStatus.VALIDATING
    ended = bench.ended(batch)
    assert (ended.status, ended.total, ended.completed, ended.failed) == (BatchStatus.COMPLETED, 300, 300, 0)
    assert (ended.input_tokens, ended.cached_tokens, ended.output_tokens) == (900, 300, 600)
    assert ended.cost == 75 and ended.model == "m" and ended.tags == {"of": "mine"} and ended.error_file_id is None
    rows = bench.content(ended.output_file_id)
    assert [row["custom_id"] for row in rows] == [f"line {i}" for i in range(300)]
    for i, row in enumerate(rows):
        assert row["error"] is None and row["id"] == row["response"]["request_id"]
        assert row["response"]["status_code"] == 200
        assert row["response"]["body"]["text"].startswith(f"prompt {i},")
    assert len({row["id"] for row in rows}) == 300
    assert answers.most <= runner.WINDOW
    assert {(asked.path, asked.source, asked.key_id, asked.tenant) for asked in answers.asked} == {
        ("batch", "batch", "key", "me")
    }
    with database.session() as session:
        for table in (BatchLine, BatchResult):
            assert session.exec(select(func.count()).select_from(table)).one() == 0, "what is in the files stays twice"
        assert session.exec(select(StoredFile.purpose)).all() == ["batch", "batch_output"]


def test_what_is_refused_is_in_the_error_file_with_its_status(bench: Bench) -> None:
    ended = bench.ended(bench.create(lines("one", "wrong", "three", "odd")))
    assert (ended.status, ended.completed, ended.failed) == (BatchStatus.COMPLETED, 2, 2)
    assert [row["custom_id"] for row in bench.content(ended.output_file_id)] == ["line 0", "line 2"]
    refused, odd = bench.content(ended.error_file_id)
    assert refused["custom_id"] == "line 1" and refused["error"] is None
    assert refused["response"]["status_code"] == 400 and refused["response"]["body"]["error"]["param"] == "prompt"
    assert odd["custom_id"] == "line 3" and odd["response"]["status_code"] == 500


def test_requests_that_begin_alike_are_run_together(bench: Bench, answers: StandIn) -> None:
    beginnings = [f"{letter * 100} and then " for letter in "abcd"]
    prompts = [f"{beginnings[i % 4]}{i}" for i in range(200)]
    answers.answering.clear()
    batch = bench.create(lines(*prompts))
    until(lambda: len(answers.asked) == runner.WINDOW, "the window is full")
    first = {asked.text[:100] for asked in answers.asked if asked.text}
    assert len(first) <= 2, "50 requests share a beginning, and 64 are asked: of two beginnings at most"
    answers.answering.set()
    rows = bench.content(bench.ended(batch).output_file_id)
    assert [row["custom_id"] for row in rows] == [f"line {i}" for i in range(200)], "in the file's order all the same"


def test_a_cancelled_batch_has_what_was_answered_and_says_what_was_not(bench: Bench, answers: StandIn) -> None:
    answers._delay = 0.005
    batch = bench.create(lines(*(f"prompt {i}" for i in range(500))))
    until(lambda: bench.now(batch).completed > 0, "something is answered")
    answers.answering.clear()
    assert bench.batches.cancel(batch.id, "me").status in (BatchStatus.CANCELLING, BatchStatus.CANCELLED)
    ended = bench.ended(batch)
    answers.answering.set()
    assert ended.status is BatchStatus.CANCELLED and ended.cancelling_at and 0 < ended.completed < 500
    done, rest = bench.content(ended.output_file_id), bench.content(ended.error_file_id)
    assert len(done) == ended.completed and len(done) + len(rest) == 500
    assert {row["custom_id"] for row in done}.isdisjoint(row["custom_id"] for row in rest)
    assert all(row["response"] is None and row["error"]["code"] == "batch_cancelled" for row in rest)
    assert bench.batches.cancel(batch.id, "me").status is BatchStatus.CANCELLED
    whole = bench.ended(bench.create(lines("one")))
    with pytest.raises(ConflictError, match="completed"):
        bench.batches.cancel(whole.id, "me")


def test_a_batch_whose_time_is_over_ends_with_what_it_has(
    bench: Bench, answers: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.batches.service.WINDOWS", {"24h": 2.0})
    answers.take_away()
    batch = bench.create(lines("one", "two"))
    ended = bench.ended(batch)
    assert (ended.status, ended.completed) == (BatchStatus.EXPIRED, 0)
    assert ended.output_file_id is None and ended.ended_at and ended.ended_at >= ended.expires
    rows = bench.content(ended.error_file_id)
    assert [row["custom_id"] for row in rows] == ["line 0", "line 1"]
    assert all(row["response"] is None and row["error"]["code"] == "batch_expired" for row in rows)


def test_an_engine_that_is_away_costs_only_time_and_is_named(bench: Bench, answers: StandIn) -> None:
    answers.answering.clear()
    batch = bench.create(lines(*(f"prompt {i}" for i in range(200))))
    until(lambda: answers.most >= runner.WINDOW, "a window of requests is with the engine")
    answers.take_away()
    until(lambda: "started again" in bench.now(batch).waiting, "the batch says what it waits for")
    refusals = answers.refusals
    time.sleep(0.3)
    assert answers.refusals == refusals, "an engine that is not there was asked"
    answers.answering.set()
    answers.bring_back()
    ended = bench.ended(batch)
    assert (ended.status, ended.completed, ended.failed, ended.waiting) == (BatchStatus.COMPLETED, 200, 0, "")


def test_a_budget_that_is_used_up_is_waited_for_and_named(
    bench: Bench, answers: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, spent = answers.start, True

    def start(prepared: object) -> object:
        if spent:
            raise BudgetError("This key has spent $1 of $1 for this day.", brief="A budget is used up.")
        return begin(prepared)  # type: ignore[arg-type]

    monkeypatch.setattr(answers, "start", start)
    batch = bench.create(lines("one", "two"))
    until(lambda: "spent $1" in bench.now(batch).waiting, "the batch says what it waits for")
    spent = False
    ended = bench.ended(batch)
    assert (ended.status, ended.completed, ended.failed) == (BatchStatus.COMPLETED, 2, 0)


def test_a_file_that_is_deleted_meanwhile_is_read_to_its_end(bench: Bench, answers: StandIn) -> None:
    answers.answering.clear()
    batch = bench.create(lines(*(f"prompt {i}" for i in range(300))))
    bench.files.delete(batch.input_file_id, "me")
    with pytest.raises(NotFoundError):
        bench.files.get(batch.input_file_id, "me")
    answers.answering.set()
    assert bench.ended(batch).completed == 300
    bench.batches.close()
    assert len(bench.files._blobs.names()) == 1, "only the results are left"


def test_a_request_that_is_sent_again_makes_no_second_batch(bench: Bench) -> None:
    file = bench.upload(lines("one"))

    def create(**more: object) -> Batch:
        return bench.batches.create("me", "key", endpoint="/v1/completions", input_file_id=file, **more)  # type: ignore[arg-type]

    first = create()
    assert create(sent_again=True).id == first.id
    assert create(sent_again=True, metadata={"another": "request"}).id != first.id
    assert create().id != first.id, "the same, asked for anew, is another batch"
    named = create(request_key="k")
    assert create(request_key="k").id == named.id
    with pytest.raises(ConflictError, match="Idempotency-Key"):
        create(request_key="k", metadata={"another": "request"})
    other = bench.upload(lines("one"), "you")
    theirs = bench.batches.create("you", "", endpoint="/v1/completions", input_file_id=other, request_key="k")
    assert theirs.id != named.id


def test_a_batch_and_its_files_are_its_tenants_alone(bench: Bench) -> None:
    mine, theirs = bench.create(lines("one")), bench.create(lines("two"), "you")
    ended = bench.ended(mine)
    assert [batch.id for batch in bench.batches.page("me")] == [mine.id]
    for refused in (
        lambda: bench.batches.get(mine.id, "you"),
        lambda: bench.batches.cancel(mine.id, "you"),
        lambda: bench.files.get(ended.output_file_id or "", "you"),
        lambda: bench.batches.create("you", "", endpoint="/v1/completions", input_file_id=mine.input_file_id),
    ):
        with pytest.raises(NotFoundError):
            refused()
    assert bench.ended(theirs).completed == 1


def test_a_batch_that_was_interrupted_in_its_ending_ends_once(bench: Bench, database: Database) -> None:
    bench.batches.close()  # what a kill leaves: all is answered, and the files are not written
    batch = bench.create(lines("one", "two"))
    with database.session() as session:
        text = json.dumps({"custom_id": "x"})
        for number in (1, 2):
            place = {"batch_id": batch.id, "number": number}
            session.add(BatchLine(**place, place=b"", start=0, length=0))
            session.add(BatchResult(**place, failed=False, text=text))
        session.connection().execute(
            update(Batch).values(status=BatchStatus.FINALIZING, total=2, completed=2, in_progress_at=1.0)
        )
    again = Bench(bench.files._blobs._folder.parent, database, bench.answers)
    again.start()
    ended = again.ended(batch)
    again.batches.close()
    assert ended.status is BatchStatus.COMPLETED and len(again.content(ended.output_file_id)) == 2
    assert not bench.answers.asked


def test_lines_name_themselves(bench: Bench) -> None:
    ended = bench.ended(bench.create([line("ä" * 512, "one")]))
    assert bench.content(ended.output_file_id)[0]["custom_id"] == "ä" * 512


def test_the_reference_to_a_file_ends_with_its_batch(
    bench: Bench, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.files, "forget", lambda _: None)  # as if killed right after the commit
    good, bad = bench.create(lines("one")), bench.create(b"{")
    bench.ended(good), bench.ended(bad)
    with database.session() as session:
        assert session.exec(select(StoredFile.id).where(col(StoredFile.listed).is_(False))).all() == []
