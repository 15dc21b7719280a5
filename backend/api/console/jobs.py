"""Jobs, their runs and results over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from backend.api.bodies import Body, Text
from backend.api.deps import CallerDep, RuntimeDep, json_only, within_limits
from backend.api.rooms import Room
from backend.jobs.service import Jobs
from backend.store.tables.jobs import Job, JobRun, RunState

room = Room(8)
router = APIRouter(prefix="/api/jobs", tags=["Jobs"], route_class=room.route_class())

MOST_ROWS = 500
"""Jobs that come at once."""
JSON_LINES = "application/jsonl"
MOST = (1 << 31) - 1
"""Largest offset: what every database's integers hold."""


class JobBody(Body):
    """A job to make; with `cron` (minute hour day month weekday, in the server's time zone) it runs by itself."""

    name: str = ""
    prompts: list[str]
    system: str = ""
    max_tokens: int = 128
    temperature: float = 0.0
    documents: bool = False
    cron: str | None = None


class JobView(BaseModel):
    """A job; `total` prompts. `zone` is the time zone of `cron`, and `note` says why its last firing began no run."""

    id: str
    name: str
    total: int
    system: str
    max_tokens: int
    temperature: float
    documents: bool
    cron: str | None
    zone: str
    next_run: float | None
    note: str
    created: float


class RunView(BaseModel):
    """A run, and how far it is; `reason` says why it failed, or what it waits for.

    One that waits goes on by itself: when the engine is there again, or when a budget begins anew or is raised.
    """

    id: str
    job_id: str
    state: RunState
    total: int
    done: int
    failed: int
    cost: float
    output_tokens: int
    reason: str
    created: float
    started: float | None
    finished: float | None


class RunList(BaseModel):
    """The latest runs, latest first; `total` is how many there are in all."""

    data: list[RunView]
    total: int


class JobDetail(JobView):
    """A job with its latest runs, latest first."""

    runs: list[RunView]


class JobList(BaseModel):
    """A page of jobs; `total` is how many there are in all."""

    data: list[JobView]
    total: int
    offset: int
    limit: int


def _job(jobs: Jobs, job: Job) -> JobView:
    return JobView(**job.model_dump(), zone=jobs.zone)


def _run(run: JobRun) -> RunView:
    return RunView.model_validate(run, from_attributes=True)


@router.get("", summary="List the jobs.")
def find(
    runtime: RuntimeDep,
    offset: Annotated[int, Query(ge=0, le=MOST)] = 0,
    limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 100,
) -> JobList:
    """Returns a page of jobs, latest first, without their prompts."""
    jobs = runtime.jobs
    rows = [_job(jobs, job) for job in jobs.find(offset=offset, limit=limit)]
    return JobList(data=rows, total=jobs.count(), offset=offset, limit=limit)


@router.post(
    "", status_code=201, summary="Make a job of many prompts.",
    dependencies=[Depends(json_only), Depends(within_limits)],
)  # fmt: skip
def create(body: JobBody, runtime: RuntimeDep, caller: CallerDep) -> JobView:
    """Returns the job, which runs by its schedule, or when it is told to."""
    return _job(runtime.jobs, runtime.jobs.create(**body.model_dump(), key_id=caller.id))


@router.get("/runs", summary="List the latest runs of all jobs.")
def runs(runtime: RuntimeDep, limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 100) -> RunList:
    """Returns how each of them went or goes, latest first; `total` is how many there are."""
    found = [_run(run) for run, _ in runtime.jobs.recent(limit)]
    return RunList(data=found, total=runtime.jobs.run_count())


@router.get("/runs/{run_id}", summary="Get a run.")
def get_run(run_id: Text, runtime: RuntimeDep) -> RunView:
    """Returns how far it is, and what it cost so far."""
    return _run(runtime.jobs.progress(run_id))


@router.delete("/runs/{run_id}", status_code=204, summary="Delete a run with its results.")
def delete_run(run_id: Text, runtime: RuntimeDep) -> None:
    """Returns nothing; one that goes on ends at once, and its job stays."""
    runtime.jobs.progress(run_id)
    runtime.jobs.delete_run(run_id)


@router.get("/{job_id}", summary="Get a job with its latest runs.")
def get(job_id: Text, runtime: RuntimeDep) -> JobDetail:
    """Returns how each of them went or goes, latest first."""
    job = _job(runtime.jobs, runtime.jobs.get(job_id))
    return JobDetail(**job.model_dump(), runs=[_run(run) for run in runtime.jobs.runs(job_id)])


@router.delete("/{job_id}", status_code=204, summary="Delete a job with its runs.")
def delete(job_id: Text, runtime: RuntimeDep) -> None:
    """Returns nothing; its schedule, prompts, runs and results are gone."""
    runtime.jobs.get(job_id)
    runtime.jobs.delete(job_id)


@router.post(
    "/{job_id}/runs", status_code=202, summary="Run a job now.", dependencies=[Depends(within_limits)]
)
def run(job_id: Text, runtime: RuntimeDep, caller: CallerDep) -> RunView:
    """Returns the run that has begun, for the key that asks; refused while one goes on."""
    return _run(runtime.jobs.run(job_id, key_id=caller.id))


@router.post("/runs/{run_id}/cancel", status_code=202, summary="Cancel a run.")
def cancel(run_id: Text, runtime: RuntimeDep) -> RunView:
    """Returns the run, which has ended; results that were finished stay."""
    runtime.jobs.cancel(run_id)
    return _run(runtime.jobs.progress(run_id))


@router.get(
    "/runs/{run_id}/results", summary="Download the results of a run.", response_class=StreamingResponse,
    responses={200: {"description": "JSON Lines.", "content": {JSON_LINES: {"schema": {"type": "string"}}}}},
)  # fmt: skip
async def results(run_id: Text, runtime: RuntimeDep) -> StreamingResponse:
    """Returns what is finished so far as JSON Lines, one for each prompt, in the order of the prompts."""
    pages = await room.run(lambda: runtime.jobs.result_pages(run_id))

    async def stream() -> AsyncIterator[str]:
        while page := await room.run(lambda: next(pages, None)):
            yield "".join(page)

    name = f"result-{run_id[:8]}.jsonl"
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(stream(), media_type=JSON_LINES, headers=headers)
