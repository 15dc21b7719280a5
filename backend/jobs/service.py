"""Jobs and their runs. A result is stored as it is finished; a run that a kill interrupted goes on where it was."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger
from sqlmodel import col, func, select

from backend.engine.messages import BATCH, SamplingParams
from backend.errors import InvalidInputError, NotFoundError, TenfoldError, UnavailableError
from backend.generation.conversations import Grounding
from backend.generation.request import TextRequest, check_sampling
from backend.generation.service import GenerationService
from backend.generation.stream import Generation
from backend.store.database import Database
from backend.store.tables import Job, JobResult, JobRun

log = logging.getLogger(__name__)

IN_FLIGHT = 64
"""Prompts of one run that are with the engine at once; the engine decides how many share a step."""
ATTEMPTS = 5
OPEN = ("queued", "running")
GRACE_SECONDS = 3600


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    run: JobRun
    done: int
    failed: int
    cost: float
    output_tokens: int


Ground = Callable[[str, str], Grounding]
"""(question, system prompt) → messages with passages."""


class Jobs:
    """Creates jobs, runs them, and keeps their schedule in APScheduler's own store."""

    def __init__(self, database: Database, generations: GenerationService, ground: Ground) -> None:
        self._database, self._generations, self._ground = database, generations, ground
        self._cancelled: set[str] = set()
        self._stopping = threading.Event()
        self._workers = ThreadPoolExecutor(4, thread_name_prefix="job")
        self.scheduler = BackgroundScheduler(
            jobstores={"default": SQLAlchemyJobStore(engine=database.engine, tablename="apscheduler_jobs")},
            job_defaults={"misfire_grace_time": GRACE_SECONDS, "coalesce": True, "max_instances": 1},
        )

    def start(self) -> None:
        """Start the schedule and take up runs that were interrupted."""
        self.scheduler.start()
        with self._database.session() as session:
            interrupted = session.exec(select(JobRun.id).where(col(JobRun.state).in_(OPEN))).all()
        for run_id in interrupted:
            self._workers.submit(self._execute, run_id)

    def close(self) -> None:
        """Stop; open runs go on at the next start."""
        self._stopping.set()
        if self.scheduler.running:
            self.scheduler.shutdown(wait=False)
        self._workers.shutdown(wait=False, cancel_futures=True)

    # ---- what users do -------------------------------------------------------------------------------------------

    def create(
        self,
        name: str,
        prompts: list[str],
        *,
        system: str = "",
        max_tokens: int = 128,
        temperature: float = 0.0,
        documents: bool = False,
        cron: str | None = None,
    ) -> Job:
        """Store a job; with `cron` (five fields, local time) it runs by itself, else call `run`.

        Raises:
            InvalidInputError: no prompts, or a schedule that cannot be read.
        """
        if not prompts:
            raise InvalidInputError("A job needs at least one prompt.", param="prompts")
        if not 1 <= max_tokens <= 4096:
            raise InvalidInputError("max_tokens must be between 1 and 4096.", param="max_tokens")
        check_sampling(SamplingParams(temperature=temperature), ())
        trigger = _trigger(cron) if cron else None
        job = Job(
            name=name.strip() or "Untitled job", prompts=prompts, system=system, max_tokens=max_tokens,
            temperature=temperature, documents=documents, cron=cron,
        )
        with self._database.session() as session:
            session.add(job)
        if trigger is not None:
            self.scheduler.add_job(
                "backend.runtime:fire_job", trigger, args=[job.id], id=job.id, name=job.name, replace_existing=True
            )
        return job

    def run(self, job_id: str) -> JobRun:
        """Start a run now; returns at once."""
        with self._database.session() as session:
            job = session.get(Job, job_id)
            if job is None:
                raise NotFoundError("There is no such job; it may have been deleted.")
            run = JobRun(job_id=job_id, total=len(job.prompts))
            session.add(run)
        self._workers.submit(self._execute, run.id)
        return run

    def cancel(self, run_id: str) -> None:
        """Stop a run; finished results stay."""
        self._cancelled.add(run_id)
        with self._database.session() as session:
            run = session.get(JobRun, run_id)
            if run is not None and run.state == "queued":
                run.state, run.finished = "cancelled", time.time()
                session.add(run)

    def delete(self, job_id: str) -> None:
        """Delete a job with its schedule, runs and results."""
        for progress in self.runs(job_id):
            if progress.run.state in OPEN:
                self._cancelled.add(progress.run.id)
        if self.scheduler.get_job(job_id) is not None:
            self.scheduler.remove_job(job_id)
        with self._database.session() as session:
            job = session.get(Job, job_id)
            if job is not None:
                session.delete(job)

    def find(self) -> list[Job]:
        """All jobs, latest first."""
        with self._database.session() as session:
            return list(session.exec(select(Job).order_by(col(Job.created).desc())).all())

    def next_run(self, job_id: str) -> float | None:
        """When the schedule fires next, in seconds since the epoch."""
        scheduled = self.scheduler.get_job(job_id)
        return scheduled.next_run_time.timestamp() if scheduled and scheduled.next_run_time else None

    def runs(self, job_id: str, limit: int = 20) -> list[Progress]:
        """Runs of a job, latest first."""
        with self._database.session() as session:
            query = select(JobRun).where(JobRun.job_id == job_id).order_by(col(JobRun.created).desc()).limit(limit)
            out = []
            for run in session.exec(query).all():
                done, failed, cost, tokens = session.exec(
                    select(
                        func.count(col(JobResult.position)),
                        func.count(func.nullif(JobResult.error, "")),
                        func.coalesce(func.sum(JobResult.cost), 0.0),
                        func.coalesce(func.sum(JobResult.output_tokens), 0),
                    ).where(JobResult.run_id == run.id)
                ).one()
                out.append(Progress(run, int(done), int(failed), float(cost), int(tokens)))
        return out

    def results(self, run_id: str) -> Iterator[str]:
        """The results of a run as JSON Lines, in the order of the prompts."""
        with self._database.session() as session:
            run = session.get(JobRun, run_id)
            job = session.get(Job, run.job_id) if run else None
            if run is None or job is None:
                raise NotFoundError("There is no such run.")
            rows = session.exec(
                select(JobResult).where(JobResult.run_id == run_id).order_by(col(JobResult.position))
            ).all()
        for row in rows:
            record = {
                "index": row.position,
                "prompt": job.prompts[row.position],
                "response": row.text or None,
                "error": row.error or None,
                "finish_reason": row.finish_reason or None,
                "usage": {"prompt_tokens": row.prompt_tokens, "completion_tokens": row.output_tokens},
                "cost": row.cost,
            }
            yield json.dumps(record, ensure_ascii=False) + "\n"

    # ---- a run ---------------------------------------------------------------------------------------------------

    def _set(self, run_id: str, **changes: object) -> None:
        with self._database.session() as session:
            run = session.get(JobRun, run_id)
            if run is not None:
                for name, value in changes.items():
                    setattr(run, name, value)
                session.add(run)

    def _execute(self, run_id: str) -> None:
        try:
            with self._database.session() as session:
                run = session.get(JobRun, run_id)
                job = session.get(Job, run.job_id) if run else None
                if run is None or job is None or run.state not in OPEN:
                    return
                done = set(session.exec(select(JobResult.position).where(JobResult.run_id == run_id)).all())
            self._set(run_id, state="running", started=run.started or time.time())
            todo = [position for position in range(len(job.prompts)) if position not in done]
            with ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="prompt") as pool:
                list(pool.map(lambda position: self._one(job, run_id, position), todo))
            if self._stopping.is_set():
                return  # it stays open, and goes on at the next start
            state = "cancelled" if run_id in self._cancelled else "done"
            self._set(run_id, state=state, finished=time.time())
        except Exception as error:
            log.exception("run %s failed", run_id)
            self._set(run_id, state="failed", reason=str(error), finished=time.time())
        finally:
            self._cancelled.discard(run_id)

    def _one(self, job: Job, run_id: str, position: int) -> None:
        def ended() -> bool:
            return run_id in self._cancelled or self._stopping.is_set()

        for attempt in range(ATTEMPTS):
            if ended():
                return
            try:
                generation = self._generate(job, position, ended)
                if generation is None:
                    return
                if generation.error is None:
                    account = generation.account
                    result = JobResult(
                        run_id=run_id, position=position, text=generation.text.strip(),
                        finish_reason=generation.finish_reason or "",
                        prompt_tokens=account.prompt_tokens if account else 0,
                        output_tokens=account.output_tokens if account else 0,
                        cost=account.cost if account else 0.0,
                    )
                    break
                error = generation.error
            except TenfoldError as raised:
                error = raised
            result = JobResult(run_id=run_id, position=position, error=error.message)
            if not isinstance(error, UnavailableError):
                break
            self._generations.engine.wait_ready(30)  # the engine died or is not there yet: try again
            self._stopping.wait(min(0.5 * 2**attempt, 5))
        with self._database.session() as session:
            if session.get(JobRun, run_id) is not None:  # deleted meanwhile
                session.merge(result)

    def _generate(self, job: Job, position: int, ended: Callable[[], bool]) -> Generation | None:
        prompt = job.prompts[position]
        common: dict[str, Any] = {
            "sampling": SamplingParams(temperature=job.temperature), "max_tokens": job.max_tokens, "path": BATCH,
            "source": "job", "question": prompt, "scope": f"{job.documents}\0{job.system}",
        }  # fmt: skip
        if job.documents:
            request = self._ground(prompt, job.system).request(**common)
        else:
            system = [{"role": "system", "content": job.system}] if job.system.strip() else []
            request = TextRequest(messages=[*system, {"role": "user", "content": prompt}], **common)
        generation = self._generations.start(self._generations.prepare(request))
        while not generation.wait(0.25):
            if ended():
                self._generations.cancel(generation)
                return None
        return generation


def _trigger(cron: str) -> CronTrigger:
    try:
        return CronTrigger.from_crontab(cron)
    except ValueError as error:
        raise InvalidInputError(
            f"The schedule {cron!r} cannot be read ({error}). Five fields are expected: minute hour day month weekday.",
            param="cron",
        ) from error
