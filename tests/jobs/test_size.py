"""A job of very many prompts: a bounded window is asked at once, results are stored together and read in pages."""

from __future__ import annotations

import json
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event
from sqlmodel import func, select

from backend.engine.messages import BATCH
from backend.jobs import dispatcher, results, runner
from backend.jobs.service import Jobs
from backend.store.database import Database
from backend.store.tables.jobs import JobPrompt, JobResult, RunState
from tests.conftest import until
from tests.jobs.standin import StandIn, latest

PROMPTS = 3000


def prompts(count: int = PROMPTS) -> list[str]:
    return [f"prompt {i}" for i in range(count)]


def test_every_prompt_is_answered_in_order_within_a_window(jobs: Jobs, answers: StandIn) -> None:
    job = jobs.create("large", prompts())
    run = jobs.run(job.id)
    threads = until(lambda: answers.asked and threading.active_count(), "it is asked")
    until(lambda: latest(jobs, job).state is RunState.DONE, "the run ends", 120)
    rows = [json.loads(line) for line in jobs.results(run.id)]
    assert [row["prompt"] for row in rows] == prompts()
    assert [row["response"].split(",")[0] for row in rows] == prompts()
    assert len(answers.asked) == PROMPTS and {(r.path, r.source) for r in answers.asked} == {(BATCH, "job")}
    assert answers.most <= runner.WINDOW
    assert threads <= threading.active_count() + dispatcher.WORKERS + 1, "a thread a prompt"
    assert latest(jobs, job).done == PROMPTS


def test_results_that_end_together_share_a_commit(jobs: Jobs, answers: StandIn, database: Database) -> None:
    inserts: list[int] = []

    def executed(_c: Any, _u: Any, statement: str, parameters: Any, _x: Any, many: bool) -> None:
        if statement.startswith("INSERT INTO job_result"):
            inserts.append(len(parameters) if many else 1)

    event.listen(database.engine, "before_cursor_execute", executed)
    answers.answering.clear()
    job = jobs.create("together", prompts(64))
    jobs.run(job.id)
    until(lambda: len(answers.asked) == 64, "all is asked")
    answers.answering.set()
    until(lambda: latest(jobs, job).state is RunState.DONE, "the run ends")
    assert sum(inserts) == 64 and len(inserts) <= 4


def test_a_listing_reads_no_prompt_and_a_page_of_results_is_bounded(
    jobs: Jobs, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "x" * 4000
    job = jobs.create("heavy", (f"{i} {text}" for i in range(2000)), max_tokens=4)
    jobs.run(job.id)
    until(lambda: latest(jobs, job).state is RunState.DONE, "the run ends", 120)
    assert peak(lambda: (jobs.find(), jobs.latest([job.id]))) < 1 << 20
    monkeypatch.setattr(results, "PAGE", 50)
    whole = sum(len(line) for line in jobs.results(latest(jobs, job).id))
    assert whole > 16_000_000 and peak(lambda: [None for _ in jobs.results(latest(jobs, job).id)]) < whole // 8


def peak(work: Callable[[], Any]) -> int:
    """Bytes that Python held at most beyond what it had, while something was done."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_what_is_deleted_leaves_nothing(jobs: Jobs, answers: StandIn, database: Database) -> None:
    job = jobs.create("gone", prompts(300), cron="0 6 * * 1")
    jobs.run(job.id)
    until(lambda: latest(jobs, job).done > 0, "something is answered")
    answers.answering.clear()
    jobs.delete(job.id)
    until(lambda: not jobs._dispatcher._runners, "the run is left")
    answers.answering.set()
    assert jobs.find() == [] and jobs.runs(job.id) == []
    with database.session() as session:
        assert session.exec(select(func.count()).select_from(JobPrompt)).one() == 0
        assert session.exec(select(func.count()).select_from(JobResult)).one() == 0
