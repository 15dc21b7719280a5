"""Jobs over HTTP, with the real model: answered, listed, downloaded, behind everybody who waits, over a dead engine."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import until

MODEL = "smollm2-135m-instruct"
JOBS = "/api/jobs"
ENDED = ("done", "failed", "cancelled")


@pytest.fixture
def api(server: Any) -> Iterator[httpx.Client]:
    """The jobs' routes; what is made is deleted again."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client
        for job in client.get(JOBS).json()["data"]:
            client.delete(f"{JOBS}/{job['id']}")


def make(api: httpx.Client, prompts: list[str], **more: Any) -> str:
    answer = api.post(JOBS, json={"name": "test", "prompts": prompts, **more})
    assert answer.status_code == 201, answer.text
    job_id: str = answer.json()["id"]
    return job_id


def run_of(api: httpx.Client, job_id: str) -> dict[str, Any]:
    run: dict[str, Any] = api.get(f"{JOBS}/{job_id}").json()["runs"][0]
    return run


def to_the_end(api: httpx.Client, job_id: str) -> dict[str, Any]:
    until(lambda: run_of(api, job_id)["state"] in ENDED, "the run ends", 120)
    return run_of(api, job_id)


def results(api: httpx.Client, run: dict[str, Any]) -> list[dict[str, Any]]:
    answer = api.get(f"{JOBS}/runs/{run['id']}/results")
    assert answer.headers["content-type"].startswith("application/jsonl")
    assert "attachment" in answer.headers["content-disposition"]
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_job_answers_every_prompt_and_one_that_cannot_be_served_fails_alone(api: httpx.Client) -> None:
    prompts = [f"Say the number {i}." for i in range(10)]
    prompts[4] = "word " * 9000
    job_id = make(api, prompts, max_tokens=4)
    assert api.post(f"{JOBS}/{job_id}/runs").status_code == 202
    run = to_the_end(api, job_id)
    assert (run["state"], run["total"], run["done"], run["failed"]) == ("done", 10, 10, 1)
    rows = results(api, run)
    assert [row["prompt"] for row in rows] == prompts
    assert "maximum context length" in rows[4]["error"]
    assert all(row["response"] and row["usage"]["completion_tokens"] for row in rows if not row["error"])
    assert run["output_tokens"] == sum(row["usage"]["completion_tokens"] for row in rows)


def test_a_schedule_says_its_time_zone(api: httpx.Client) -> None:
    job_id = make(api, ["Hello"], cron="0 2 * * *")
    job = api.get(f"{JOBS}/{job_id}").json()
    assert job["zone"] and job["next_run"] and job["note"] == "" and job["runs"] == []
    refused = api.post(JOBS, json={"prompts": ["x"], "cron": "every day"})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "cron"


def test_what_is_not_there_and_what_goes_on_is_said(api: httpx.Client) -> None:
    assert api.get(f"{JOBS}/none").status_code == api.post(f"{JOBS}/none/runs").status_code == 404
    assert api.get(f"{JOBS}/runs/none/results").status_code == api.post(f"{JOBS}/runs/none/cancel").status_code == 404
    job_id = make(api, [f"Write about {i}." for i in range(40)], max_tokens=200)
    run = api.post(f"{JOBS}/{job_id}/runs").json()
    assert api.post(f"{JOBS}/{job_id}/runs").status_code == 409
    assert api.post(f"{JOBS}/runs/{run['id']}/cancel").json()["state"] == "cancelled"


def waiting(server: Any) -> int:
    text = httpx.get(f"{server.url}/metrics").text
    return int(sum(float(value) for value in re.findall(r"^vllm:num_requests_waiting(?:{.*})? (\S+)", text, re.M)))


def test_people_overtake_a_job(server: Any, api: httpx.Client) -> None:
    switches = httpx.get(f"{server.url}/api/switches").json()["switches"]
    httpx.patch(f"{server.url}/api/switches", json={"max_batch": 4, "answer_cache": False})
    try:
        job_id = make(api, [f"Write about {i}." for i in range(40)], max_tokens=100)
        api.post(f"{JOBS}/{job_id}/runs")
        until(lambda: waiting(server) >= 30, "most of the job waits in the engine")
        hello = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
        assert httpx.post(f"{server.url}/v1/chat/completions", json=hello, timeout=120).status_code == 200
        # Whoever came last, and were not urgent, would be answered when all but three of them are.
        assert run_of(api, job_id)["done"] < 30
        run = api.post(f"{JOBS}/runs/{run_of(api, job_id)['id']}/cancel").json()
        assert run["state"] == "cancelled" and len(results(api, run)) < 40
    finally:
        httpx.patch(f"{server.url}/api/switches", json=switches)


def test_a_job_outlives_the_engine(server: Any, api: httpx.Client) -> None:
    job_id = make(api, [f"Count to {i}." for i in range(60)], max_tokens=40)
    api.post(f"{JOBS}/{job_id}/runs")
    until(lambda: run_of(api, job_id)["done"] >= 1, "one prompt is answered")
    before = {row["index"]: row for row in results(api, run_of(api, job_id))}
    os.kill(server.engine_pid(), signal.SIGKILL)
    until(lambda: run_of(api, job_id)["state"] == "waiting", "it waits for the engine")
    run = to_the_end(api, job_id)
    assert (run["state"], run["done"], run["failed"]) == ("done", 60, 0)
    after = {row["index"]: row for row in results(api, run)}
    assert len(after) == 60
    assert {index: after[index] for index in before} == before, "a finished result was computed again"
    server.wait_ready()
