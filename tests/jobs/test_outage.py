"""An outage costs a run nothing but time, and what one prompt raises is that prompt's failure alone."""

from __future__ import annotations

import json
import time

import pytest

from backend.errors import StorageError
from backend.jobs.job import OPEN
from backend.jobs.record import RunRecord
from backend.jobs.service import Jobs
from backend.store.tables.jobs import JobResult, RunState
from tests.conftest import until
from tests.jobs.standin import StandIn, latest


def test_an_odd_prompt_fails_alone(jobs: Jobs) -> None:
    job = jobs.create("mixed", ["one", "odd", "three"])
    jobs.run(job.id)
    until(lambda: latest(jobs, job).state not in OPEN, "the run ends")
    run = latest(jobs, job)
    assert (run.state, run.done, run.failed) == (RunState.DONE, 3, 1)
    rows = [json.loads(line) for line in jobs.results(run.id)]
    assert "surrogates" in rows[1]["error"] and rows[0]["response"] and rows[2]["response"]


def test_a_run_waits_for_the_engine_and_goes_on_by_itself(jobs: Jobs, answers: StandIn) -> None:
    answers.answering.clear()
    job = jobs.create("sturdy", [f"prompt {i}" for i in range(200)])
    jobs.run(job.id)
    until(lambda: answers.most >= 64, "a window of prompts is with the engine")
    assert latest(jobs, job).state is RunState.RUNNING
    answers.take_away()
    until(lambda: latest(jobs, job).state is RunState.WAITING, "the run waits")
    assert "started again" in latest(jobs, job).reason
    refusals = answers.refusals
    time.sleep(0.5)
    assert answers.refusals == refusals, "an engine that is not there was asked"
    assert latest(jobs, job).finished is None and latest(jobs, job).failed == 0
    answers.answering.set()
    answers.bring_back()
    until(lambda: latest(jobs, job).state not in OPEN, "the run ends")
    run = latest(jobs, job)
    assert (run.state, run.done, run.failed, run.reason) == (RunState.DONE, 200, 0, "")


def test_an_engine_that_says_it_is_there_and_refuses_is_asked_one_prompt_at_a_time(
    jobs: Jobs, answers: StandIn
) -> None:
    answers.away = True
    job = jobs.create("patient", [f"prompt {i}" for i in range(200)])
    jobs.run(job.id)
    until(lambda: latest(jobs, job).state is RunState.WAITING, "the run waits")
    first = answers.refusals
    until(lambda: answers.refusals > first + 2, "it is asked again")
    assert answers.refusals < first + 64
    answers.away = False
    until(lambda: latest(jobs, job).state is RunState.DONE, "the run ends")
    assert latest(jobs, job).done == 200


def test_results_wait_for_a_database_that_takes_no_writes(
    jobs: Jobs, answers: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals, store = 3, RunRecord.store

    def refuse(record: RunRecord, results: list[JobResult]) -> bool:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise StorageError("The disk is full.")
        return store(record, results)

    monkeypatch.setattr(RunRecord, "store", refuse)
    job = jobs.create("patient", [f"prompt {i}" for i in range(200)])
    jobs.run(job.id)
    until(lambda: latest(jobs, job).state not in OPEN, "the run ends")
    assert (latest(jobs, job).state, latest(jobs, job).done) == (RunState.DONE, 200)
    assert refusals == 0 and len(answers.asked) == 200, "what was finished was asked again"


def test_a_run_that_waits_is_cancelled_at_once(jobs: Jobs, answers: StandIn) -> None:
    answers.take_away()
    job = jobs.create("hopeless", ["one", "two"])
    run = jobs.run(job.id)
    until(lambda: latest(jobs, job).state is RunState.WAITING, "the run waits")
    jobs.cancel(run.id)
    assert latest(jobs, job).state is RunState.CANCELLED
    answers.bring_back()
    jobs.run(job.id)
    until(lambda: latest(jobs, job).state is RunState.DONE, "another run ends")
    assert jobs.progress(run.id).state is RunState.CANCELLED and jobs.progress(run.id).done == 0


def test_what_had_ended_when_a_run_was_cancelled_is_kept(jobs: Jobs, answers: StandIn) -> None:
    answers.left = 200
    job = jobs.create("half", [f"prompt {i}" for i in range(500)])
    run = jobs.run(job.id)
    until(lambda: latest(jobs, job).done > 0, "something is answered")
    jobs.cancel(run.id)
    until(lambda: not jobs._dispatcher._runners, "the run is left")
    answers.left = float("inf")
    answers.answering.set()
    after = jobs.progress(run.id)
    assert after.state is RunState.CANCELLED and 0 < after.done < 500
    rows = [json.loads(line) for line in jobs.results(run.id)]
    assert len(rows) == after.done and all(row["response"] for row in rows), "an aborted answer was kept as one"
