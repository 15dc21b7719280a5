"""A process killed in the middle of a run: what was acknowledged stays, and is neither asked nor counted twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sqlmodel import select

from backend.jobs import dispatcher, runner
from backend.store.database import Database
from backend.store.tables.jobs import JobResult, RunState
from tests.conftest import ROOT, until
from tests.jobs.standin import StandIn, make_jobs

KILLS, PROMPTS = 10, 4000


def stored(database: Database, run_id: str) -> dict[int, str]:
    with database.session() as session:
        rows = session.exec(select(JobResult.position, JobResult.text).where(JobResult.run_id == run_id)).all()
    return {position: text for position, text in rows}


def test_ten_kills_lose_nothing_and_double_nothing(tmp_path: Path, database: Database) -> None:
    log = tmp_path / "asked.txt"
    jobs = make_jobs(database, StandIn())  # never started: it makes the job, and looks on
    job = jobs.create("sturdy", [f"prompt {i}" for i in range(PROMPTS)])
    run = jobs.run(job.id)

    def serve() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.jobs.standin", str(database.engine.url.database), str(log)]
        return subprocess.Popen(command, cwd=ROOT)

    def asked() -> list[str]:
        return log.read_text().splitlines() if log.exists() else []

    before: dict[int, str] = {}
    for kill in range(KILLS):
        seen = len(asked())
        process = serve()
        try:
            goal = len(before) + 30 + 17 * kill
            until(lambda goal=goal: jobs.progress(run.id).done >= goal, "results are stored")  # type: ignore[misc]
        finally:
            process.kill()
            process.wait()
        after, progress = stored(database, run.id), jobs.progress(run.id)
        assert progress.state is RunState.RUNNING, "it had ended before it was killed"
        assert progress.done == len(after), "what is counted is not what is stored"
        assert {position: after[position] for position in before} == before, "a finished result was lost or changed"
        twice = {f"prompt {position}" for position in before} & set(asked()[seen:])
        assert not twice, "a finished prompt was asked again"
        before = after
    process = serve()
    try:
        until(lambda: jobs.progress(run.id).state is RunState.DONE, "the run ends", 120)
    finally:
        process.kill()
        process.wait()
    after = stored(database, run.id)
    assert jobs.progress(run.id).done == PROMPTS and sorted(after) == list(range(PROMPTS))
    assert all(text.startswith(f"prompt {position}, ") for position, text in after.items())
    assert {position: after[position] for position in before} == before
    assert len({text.rpartition(" ")[2] for text in after.values()}) == KILLS + 1, "not every process did its part"
    lost = len(asked()) - PROMPTS
    assert lost <= KILLS * (runner.WINDOW + runner.TOGETHER), "more than what was open was asked again"
    assert dispatcher.LEASE > dispatcher.BEAT * 3
