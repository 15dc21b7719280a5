"""A crontab's weekdays mean what every crontab means by them; a schedule fires by itself, once, and says when not."""

from __future__ import annotations

import time
from datetime import datetime

import pytest
from sqlmodel import col, update

from backend.errors import InvalidInputError
from backend.jobs.schedule import crontab, following, zone_name
from backend.jobs.service import Jobs
from backend.store.database import Database
from backend.store.tables.jobs import Job, RunState
from tests.conftest import until
from tests.jobs.standin import StandIn, latest, make_jobs


@pytest.mark.parametrize(
    ("field", "days"),
    [("0", "sun"), ("7", "sun"), ("1", "mon"), ("1-5", "mon,tue,wed,thu,fri"), ("mon-fri", "mon,tue,wed,thu,fri"),
     ("5-7", "sun,fri,sat"), ("0-2", "sun,mon,tue"), ("fri-mon", "sun,mon,fri,sat"), ("*/2", "sun,tue,thu,sat"),
     ("1,3,sat", "mon,wed,sat"), ("1-5/2", "mon,wed,fri"), ("*", "sun,mon,tue,wed,thu,fri,sat"),
     ("0-7", "sun,mon,tue,wed,thu,fri,sat")],
)  # fmt: skip
def test_weekdays_count_from_sunday(field: str, days: str) -> None:
    assert str(crontab(f"0 6 * * {field}").fields[4]) == days


@pytest.mark.parametrize(
    "fields", ["every day", "0 6 * * 8", "0 6 * * someday", "0 6 * *", "0 6 * * 1/0", "61 * * * *"]
)
def test_what_is_no_schedule_is_refused(fields: str) -> None:
    with pytest.raises(InvalidInputError, match="Five fields"):
        crontab(fields)


def test_the_next_time_lies_ahead_in_the_zone_that_is_named() -> None:
    zone = crontab("0 2 * * *").timezone
    at_two = datetime(2026, 3, 1, 2, 0, tzinfo=zone).timestamp()
    assert following("0 2 * * *", at_two - 1) == at_two
    assert following("0 2 * * *", at_two) == datetime(2026, 3, 2, 2, 0, tzinfo=zone).timestamp()
    assert zone_name() and zone_name() != "local"
    with pytest.raises(InvalidInputError, match="never comes"):
        following("0 0 30 2 *", at_two)


def set_next(database: Database, job: Job, moment: float | None) -> None:
    with database.session() as session:
        session.connection().execute(update(Job).where(col(Job.id) == job.id).values(next_run=moment))


def test_a_schedule_fires_by_itself_and_once(jobs: Jobs, database: Database) -> None:
    with pytest.raises(InvalidInputError, match="Five fields"):
        jobs.create("bad", ["x"], cron="every day")
    assert jobs.find() == []
    job = jobs.create("nightly", ["Hello"], cron="0 2 * * *")
    assert job.next_run is not None and job.next_run > time.time() and jobs.runs(job.id) == []
    set_next(database, job, time.time() + 0.2)
    jobs._schedule.wake()
    until(lambda: jobs.runs(job.id) and latest(jobs, job).state is RunState.DONE, "it runs by itself")
    jobs._schedule.wake()
    time.sleep(0.3)
    assert len(jobs.runs(job.id)) == 1 and jobs.get(job.id).next_run == job.next_run


def test_what_came_while_no_server_ran_is_made_up_for_within_the_hour(database: Database) -> None:
    jobs = make_jobs(database, StandIn())
    late, missed, lost = (jobs.create(name, ["x"], cron="0 6 * * 1") for name in ("late", "missed", "lost"))
    set_next(database, late, time.time() - 600)
    set_next(database, missed, time.time() - 7200)
    set_next(database, lost, None)  # as it comes from before schedules were in the job's row
    jobs.start()
    try:
        until(lambda: jobs.runs(late.id), "it is made up for")
        until(lambda: jobs.get(missed.id).note, "it is said")
        until(lambda: jobs.get(lost.id).next_run, "it is planned")
    finally:
        jobs.close()
    assert "the server was not running" in jobs.get(missed.id).note and jobs.runs(missed.id) == []
    assert {jobs.get(job.id).next_run for job in (late, missed, lost)} == {late.next_run}
    assert jobs.runs(lost.id) == [] and len(jobs.runs(late.id)) == 1
