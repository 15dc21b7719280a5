"""A run is its key's: it waits for that key's budget, says so in its row, and fails no prompt for want of money."""

from __future__ import annotations

import time

from sqlmodel import col, update

from backend.jobs.job import OPEN
from backend.metering.budgets import Budgets
from backend.metering.happenings import Happenings
from backend.metering.queries import LedgerQueries
from backend.store.database import Database
from backend.store.limits import Limits
from backend.store.tables.jobs import Job, RunState
from tests.conftest import until
from tests.jobs.standin import StandIn, latest, make_jobs


def test_a_run_waits_for_its_keys_budget_and_fails_no_prompt(database: Database, answers: StandIn) -> None:
    limits = {"ours": Limits(month=0)}
    budgets = Budgets(
        database, LedgerQueries(database, 90), lambda key: limits.get(key, Limits()), "tf-{}".format,
        Happenings(database),
    )  # fmt: skip
    jobs = make_jobs(database, answers, budgets.check)
    ours, theirs = (jobs.create(name, [f"{name} {i}" for i in range(200)], key_id="maker") for name in "ab")
    jobs.start()
    try:
        jobs.run(ours.id, key_id="ours")
        until(lambda: latest(jobs, ours).state is RunState.WAITING, "the run waits")
        run = latest(jobs, ours)
        assert "The key has used its budget for this month" in run.reason and "goes on by itself then" in run.reason
        assert (run.done, run.failed, answers.asked) == (0, 0, [])
        jobs.run(theirs.id, key_id="theirs")
        until(lambda: latest(jobs, theirs).state is RunState.DONE, "another's run ends")
        limits["ours"] = Limits()
        until(lambda: latest(jobs, ours).state not in OPEN, "the run goes on by itself, and ends")
    finally:
        jobs.close()
    run = latest(jobs, ours)
    assert (run.state, run.done, run.failed, run.reason) == (RunState.DONE, 200, 0, "")
    assert {(request.question[0], request.key_id) for request in answers.asked} == {("a", "ours"), ("b", "theirs")}


def test_a_scheduled_run_is_the_key_s_that_made_the_job(database: Database, answers: StandIn) -> None:
    jobs = make_jobs(database, answers)
    job = jobs.create("nightly", ["Hello"], cron="0 2 * * *", key_id="maker")
    with database.session() as session:
        due = update(Job).where(col(Job.id) == job.id).values(next_run=time.time() - 1)
        session.connection().execute(due)
    jobs.fire(job.id)
    assert latest(jobs, job).key_id == "maker"
