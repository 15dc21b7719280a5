"""An outage costs a run nothing but time, and what one prompt raises is that prompt's failure alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.errors import UnavailableError
from backend.generation.request import Prepared, TextRequest
from backend.generation.stream import Generation
from backend.jobs import service
from backend.jobs.service import Jobs
from backend.store.database import Database
from backend.store.tables.jobs import Job
from tests.conftest import until


class Engine:
    """Stands where the engine's process would: away at first, and it breaks on one prompt."""

    away = 12

    def prepare(self, request: TextRequest) -> Prepared:
        return Prepared(request, [1], request.sampling)

    def start(self, prepared: Prepared) -> Generation:
        request = prepared.request
        if self.away:
            self.away -= 1
            raise UnavailableError("The engine is away.")
        if "odd" in request.question:
            raise RuntimeError("surrogates not allowed")
        generation = Generation(request)
        generation.begin(prepared)
        generation.finish("stop")
        return generation


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    monkeypatch.setattr(service, "RETRY_SECONDS", 0.01)
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite3'}")
    database.migrate()
    generations: Any = Engine()
    jobs = Jobs(database, generations, lambda *_: pytest.fail("no documents were asked for"))
    jobs.start()
    yield jobs
    jobs.close()
    database.close()


def test_an_outage_consumes_no_attempt_and_an_odd_prompt_fails_alone(jobs: Jobs) -> None:
    job = jobs.create("mixed", ["one", "odd", "three"])
    run = jobs.run(job.id)
    until(lambda: jobs.runs(job.id)[0].run.state in ("done", "failed"), "the run ends")
    progress = jobs.runs(job.id)[0]
    assert (progress.run.state, progress.done, progress.failed) == ("done", 3, 1)
    assert "surrogates" in list(jobs.results(run.id))[1]


def test_a_firing_is_skipped_while_an_earlier_run_goes_on(jobs: Jobs) -> None:
    jobs._generations.away = 1 << 30  # type: ignore[attr-defined]
    job = jobs.create("slow", ["one"])
    for _ in range(3):
        jobs.fire(job.id)
    assert len(jobs.runs(job.id)) == 1
    jobs.cancel(jobs.runs(job.id)[0].run.id)
    until(lambda: jobs.runs(job.id)[0].run.state == "cancelled", "the run ends")
    jobs.fire(job.id)
    assert len(jobs.runs(job.id)) == 2


def test_a_schedule_is_brought_in_step_with_the_jobs(jobs: Jobs) -> None:
    lost, gone = (jobs.create(name, ["x"], cron="0 6 * * 1") for name in ("lost", "gone"))
    jobs.scheduler.remove_job(lost.id)
    with jobs._database.session() as session:
        session.delete(session.get(Job, gone.id))
    jobs._reconcile()
    assert jobs.next_run(lost.id) is not None and jobs.next_run(gone.id) is None
