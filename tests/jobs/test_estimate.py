"""What a job will take is told from what earlier ones took here, and not at all before there were any."""

from __future__ import annotations

import time

import pytest

from backend.jobs.estimate import estimate
from backend.jobs.service import Jobs
from backend.store.database import Database
from backend.store.tables.jobs import JobResult, JobRun, RunState
from tests.jobs.standin import StandIn, make_jobs

READ, WRITTEN = 1e-7, 1e-5
"""Dollars for a token read and one written, in the runs that were."""


@pytest.fixture
def idle(database: Database) -> Jobs:
    """Jobs that nobody runs."""
    return make_jobs(database, StandIn())


def ran(jobs: Jobs, database: Database, tokens: list[tuple[int, int]], seconds: float) -> None:
    job = jobs.create("before", ["x"] * len(tokens))
    costs = [READ * read + WRITTEN * written for read, written in tokens]
    now = time.time()
    run = JobRun(job_id=job.id, state=RunState.DONE, cost=sum(costs), started=now - seconds, finished=now)
    with database.session() as session:
        session.add(run)
        session.flush()
        for position, ((read, written), cost) in enumerate(zip(tokens, costs, strict=True)):
            session.add(
                JobResult(
                    run_id=run.id, position=position, prompt_tokens=read, output_tokens=written, cost=cost, text="x"
                )
            )


def test_an_estimate_follows_what_a_token_read_and_one_written_cost(database: Database, idle: Jobs) -> None:
    ran(idle, database, [(100, 10), (200, 30), (50, 20)], seconds=6.0)
    found = estimate(database, ["a"] * 10, lambda _: 40, max_tokens=100, documents=False)
    assert found.prompt_tokens == 400 and found.answers == 3 and found.likely and found.most
    assert found.likely.output_tokens == 200 and found.most.output_tokens == 1000
    assert found.most.cost == pytest.approx(400 * READ + 1000 * WRITTEN)
    spent = 350 * READ + 60 * WRITTEN
    assert found.most.seconds == pytest.approx(found.most.cost * 6.0 / spent)


def test_before_the_first_run_only_the_tokens_read_are_known(database: Database, idle: Jobs) -> None:
    found = estimate(database, ["a", "b"], lambda prompt: 7, max_tokens=100, documents=False)
    assert (found.prompt_tokens, found.likely, found.most) == (14, None, None)
    assert estimate(database, ["a"], lambda prompt: 7, max_tokens=100, documents=True).prompt_tokens is None


def test_answers_from_documents_are_told_from_their_like(database: Database, idle: Jobs) -> None:
    ran(idle, database, [(100, 10), (200, 30)], seconds=1.0)
    assert estimate(database, ["a"], lambda prompt: 7, max_tokens=100, documents=True).likely is None


def test_many_prompts_are_counted_by_a_sample(database: Database, idle: Jobs) -> None:
    asked: list[str] = []

    def count(prompt: str) -> int:
        asked.append(prompt)
        return 3

    assert estimate(database, ["a"] * 50_000, count, max_tokens=1, documents=False).prompt_tokens == 150_000
    assert len(asked) < 200
