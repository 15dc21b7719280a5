"""Jobs run through the real engine on the patient queue: to the end, cancelled, on a schedule, and over a restart."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.errors import InvalidInputError
from backend.generation.request import TextRequest
from backend.runtime import Runtime, close_runtime, open_runtime
from backend.settings import Settings
from tests.conftest import until


@pytest.fixture
def data_dir(tmp_path: Path, cache_dir: Path) -> Path:
    (tmp_path / "cache").symlink_to(cache_dir)
    return tmp_path


@pytest.fixture
def runtime(data_dir: Path) -> Iterator[Runtime]:
    runtime = open_runtime(Settings(data_dir=data_dir))
    assert runtime.engine.wait_ready(120)
    yield runtime
    close_runtime()


def ended(runtime: Runtime, job_id: str) -> Any:
    return next((p for p in runtime.jobs.runs(job_id) if p.run.state in ("done", "failed", "cancelled")), None)


def run_to_the_end(runtime: Runtime, job_id: str) -> Any:
    return until(lambda: ended(runtime, job_id), "the run ends", 120)


def test_a_job_answers_every_prompt_in_order(runtime: Runtime) -> None:
    prompts = [f"Say the number {i}." for i in range(20)]
    job = runtime.jobs.create("numbers", prompts, max_tokens=8)
    run = runtime.jobs.run(job.id)
    progress = run_to_the_end(runtime, job.id)
    assert (progress.run.state, progress.done, progress.failed) == ("done", 20, 0)
    rows = [json.loads(line) for line in runtime.jobs.results(run.id)]
    assert [row["prompt"] for row in rows] == prompts
    assert all(row["response"] and row["usage"]["completion_tokens"] for row in rows)
    runtime.ledger.flush()
    assert {r.source for r in runtime.ledger.window(600)} == {"job"}


def test_a_prompt_that_cannot_be_served_fails_alone(runtime: Runtime) -> None:
    job = runtime.jobs.create("mixed", ["Hello", "word " * 9000, "Bye"], max_tokens=4)
    run = runtime.jobs.run(job.id)
    progress = run_to_the_end(runtime, job.id)
    assert (progress.done, progress.failed) == (3, 1)
    rows = [json.loads(line) for line in runtime.jobs.results(run.id)]
    assert "maximum context length" in rows[1]["error"] and rows[0]["response"] and rows[2]["response"]


def test_people_do_not_wait_for_a_job(runtime: Runtime) -> None:
    runtime.switchboard.change({"max_batch": 4})
    job = runtime.jobs.create("long", [f"Write about {i}." for i in range(40)], max_tokens=200, temperature=1.0)
    run = runtime.jobs.run(job.id)
    until(lambda: (s := runtime.engine.stats) and s.running >= 4, "four prompts are answered at once")
    hello = TextRequest(messages=[{"role": "user", "content": "Hello"}], max_tokens=4, source="console")
    generation = runtime.generations.start(runtime.generations.prepare(hello))
    assert generation.wait(20)
    assert generation.error is None and next(p for p in runtime.jobs.runs(job.id)).run.state == "running"
    runtime.jobs.cancel(run.id)
    progress = run_to_the_end(runtime, job.id)
    assert progress.run.state == "cancelled" and progress.done < 40


def test_a_job_survives_the_engine_and_the_server(runtime: Runtime, data_dir: Path) -> None:
    job = runtime.jobs.create("sturdy", [f"Count to {i}." for i in range(60)], max_tokens=40)
    run = runtime.jobs.run(job.id)
    until(lambda: runtime.jobs.runs(job.id)[0].done >= 1, "one prompt is answered")
    runtime.restart_engine()
    until(lambda: runtime.engine.state.phase == "restarting", "the engine starts again")
    until(lambda: runtime.jobs.runs(job.id)[0].done >= 10, "ten prompts are answered")
    before = {json.loads(line)["index"]: line for line in runtime.jobs.results(run.id)}
    close_runtime()
    again = open_runtime(Settings(data_dir=data_dir))
    progress = run_to_the_end(again, job.id)
    assert (progress.run.state, progress.done, progress.failed) == ("done", 60, 0)
    after = {json.loads(line)["index"]: line for line in again.jobs.results(run.id)}
    assert all(after[index] == line for index, line in before.items()), "a finished result was computed again"


def test_a_schedule_runs_by_itself_and_is_kept(runtime: Runtime, data_dir: Path) -> None:
    with pytest.raises(InvalidInputError, match="Five fields"):
        runtime.jobs.create("bad", ["x"], cron="every day")
    job = runtime.jobs.create("nightly", ["Hello"], max_tokens=2, cron="0 2 * * *")
    first = runtime.jobs.next_run(job.id)
    assert first is not None and first > time.time()
    from datetime import datetime

    runtime.jobs.scheduler.get_job(job.id).modify(next_run_time=datetime.now().astimezone())
    assert run_to_the_end(runtime, job.id).run.state == "done"
    close_runtime()
    again = open_runtime(Settings(data_dir=data_dir))
    assert again.jobs.next_run(job.id) is not None
    again.jobs.delete(job.id)
    assert again.jobs.find() == [] and again.jobs.scheduler.get_job(job.id) is None
