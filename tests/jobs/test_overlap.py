"""Whose run it is, and that a job has one at most, says the database: no process has to know of another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import col, select, update

from backend.errors import ConflictError
from backend.jobs import dispatcher
from backend.jobs.job import OPEN
from backend.jobs.record import RunRecord
from backend.jobs.service import Jobs
from backend.store.database import Database
from backend.store.tables.jobs import Job, JobResult, JobRun, RunState
from tests.conftest import until
from tests.jobs.standin import StandIn, latest, make_jobs


@pytest.fixture
def two(database: Database) -> Iterator[tuple[Jobs, Jobs]]:
    """The jobs of two processes, neither started, which share nothing but the file."""
    other = Database(database.url)
    yield make_jobs(database, StandIn()), make_jobs(other, StandIn())
    other.close()


def at_once(*acts: Callable[[], Any]) -> list[Exception]:
    """Do several things at the same moment; gives what they raised."""
    barrier, raised = threading.Barrier(len(acts)), []

    def act(one: Callable[[], Any]) -> None:
        barrier.wait()
        try:
            one()
        except Exception as error:
            raised.append(error)

    threads = [threading.Thread(target=act, args=(one,)) for one in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def make_due(database: Database, job: Job, ago: float = 1.0) -> None:
    with database.session() as session:
        session.connection().execute(
            update(Job).where(col(Job.id) == job.id).values(next_run=time.time() - ago)
        )


def test_two_processes_fire_one_schedule_once(two: tuple[Jobs, Jobs], database: Database) -> None:
    job = two[0].create("nightly", ["one"], cron="0 2 * * *")
    for number in range(1, 21):
        make_due(database, job)
        assert at_once(*(lambda one=one: one.fire(job.id) for one in two)) == []
        runs = two[0].runs(job.id, limit=100)
        assert len(runs) == number and runs[0].state is RunState.QUEUED
        assert two[0].get(job.id).note == "", "one of the two took the other's run for an earlier one"
        two[1].cancel(runs[0].id)


def test_two_who_run_one_job_at_once_get_one_run(two: tuple[Jobs, Jobs]) -> None:
    job = two[0].create("twice", ["one"])
    for number in range(1, 21):
        raised = at_once(*(lambda one=one: one.run(job.id) for one in two))
        assert [type(error) for error in raised] == [ConflictError]
        assert len(two[0].runs(job.id, limit=100)) == number
        two[0].cancel(latest(two[0], job).id)


def test_a_firing_beside_a_run_by_hand_is_skipped_and_says_so(two: tuple[Jobs, Jobs], database: Database) -> None:
    job = two[0].create("nightly", ["one"], cron="0 2 * * *")
    for number in range(1, 21):
        make_due(database, job)
        at_once(lambda: two[0].run(job.id), lambda: two[1].fire(job.id))
        two[1].fire(job.id)  # as its schedule does, where the two met at the very same moment
        assert len(two[0].runs(job.id, limit=100)) == number
        assert two[0].get(job.id).next_run > time.time()  # type: ignore[operator]
        two[0].cancel(latest(two[0], job).id)
    two[0].run(job.id)
    make_due(database, job)
    two[1].fire(job.id)
    assert "the run before had not ended" in two[0].get(job.id).note
    two[0].cancel(latest(two[0], job).id)
    make_due(database, job)
    two[1].fire(job.id)
    assert two[0].get(job.id).note == "" and len(two[0].runs(job.id, limit=100)) == 22


def test_two_processes_share_the_runs_and_not_a_run(database: Database, tmp_path: Path) -> None:
    log = tmp_path / "asked.txt"
    other = Database(database.url)
    both = make_jobs(database, StandIn(log)), make_jobs(other, StandIn(log))
    made = [both[0].create(f"job {n}", [f"{n} {i}" for i in range(200)]) for n in range(10)]
    for job in made:
        both[0].run(job.id)
    for jobs in both:
        jobs.start()
    try:
        until(lambda: all(latest(both[0], job).state is RunState.DONE for job in made), "all runs end")
    finally:
        for jobs in both:
            jobs.close()
        other.close()
    asked = log.read_text().splitlines()
    assert len(asked) == len(set(asked)) == 2000, "a run was driven by both"


def test_a_run_of_a_silent_process_is_taken_over_and_its_late_results_are_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "LEASE", 0.3)
    answers = StandIn()
    jobs = make_jobs(database, answers)
    job = jobs.create("orphan", ["one", "two"])
    run = jobs.run(job.id)
    late = RunRecord(database, job, run.id, "the silent one")
    with database.session() as session:
        values = {"holder": "the silent one", "heard": time.time(), "state": RunState.RUNNING}
        session.connection().execute(update(JobRun).values(**values))
    assert late.store([JobResult(run_id=run.id, position=0, text="early")])
    jobs.start()
    try:
        until(lambda: latest(jobs, job).state not in OPEN, "another ends the run")
    finally:
        jobs.close()
    assert not late.store([JobResult(run_id=run.id, position=1, text="late")])
    with database.session() as session:
        texts = session.exec(select(JobResult.text).order_by(col(JobResult.position))).all()
    assert texts[0] == "early" and texts[1].startswith("two, answered")
    assert (latest(jobs, job).state, latest(jobs, job).done) == (RunState.DONE, 2)
    assert [request.question for request in answers.asked] == ["two"]


def test_a_process_that_stops_hands_its_runs_over_at_once(database: Database) -> None:
    first, second = StandIn(), StandIn()
    first.answering.clear()
    jobs = make_jobs(database, first)
    job = jobs.create("handed over", [f"prompt {i}" for i in range(100)])
    jobs.run(job.id)
    jobs.start()
    until(lambda: len(first.asked) == 64, "a window is asked")
    jobs.close()
    assert latest(jobs, job).state is RunState.RUNNING and latest(jobs, job).holder == ""
    after = make_jobs(database, second)
    after.start()
    try:
        until(lambda: latest(after, job).state is RunState.DONE, "the run ends")
    finally:
        after.close()
    assert (latest(after, job).done, latest(after, job).failed, len(second.asked)) == (100, 0, 100)
