"""An outage costs a run nothing but time, and what one prompt raises is that prompt's failure alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.errors import UnavailableError
from backend.generation.service import Generation, TextRequest
from backend.jobs import service
from backend.jobs.service import Jobs
from backend.store.database import Database
from tests.conftest import until


class Engine:
    """Stands where the engine's process would: away at first, and it breaks on one prompt."""

    away = 12

    def start(self, request: TextRequest) -> Generation:
        if self.away:
            self.away -= 1
            raise UnavailableError("The engine is away.")
        if "odd" in request.question:
            raise RuntimeError("surrogates not allowed")
        generation = Generation(request)
        generation.update(status="done", finish_reason="stop")
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
