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
from sqlmodel import col, func, select

from backend.engine.messages import BATCH, SamplingParams
from backend.errors import InvalidInputError, NotFoundError, TenfoldError
from backend.generation.conversations import grounded_request
from backend.generation.request import TextRequest, check_sampling
from backend.generation.service import GenerationService
from backend.generation.stream import Generation
from backend.jobs.prompts import read_prompts
from backend.jobs.schedule import crontab
from backend.knowledge.grounding import Grounding
from backend.store.database import Database
from backend.store.tables import Job, JobResult, JobRun

log = logging.getLogger(__name__)

IN_FLIGHT = 64
"""Prompts of one run that are with the engine at once; the engine decides how many share a step."""
WAITS = (429, 503)
"""Statuses of what passes by itself: too much at once, and an engine that is not there."""
RETRY_SECONDS = 1.0
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

    @property
    def open(self) -> bool:
        """Whether it has not ended."""
        return self.run.state in OPEN


Ground = Callable[[str, str, int], Grounding]
"""(question, system prompt, most tokens of the answer) → messages with passages."""


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
        self.scheduler.start(paused=True)
        self._reconcile()
        self.scheduler.resume()
        with self._database.session() as session:
            interrupted = session.exec(select(JobRun.id).where(col(JobRun.state).in_(OPEN))).all()
        for run_id in interrupted:
            self._workers.submit(self._execute, run_id)

    def _reconcile(self) -> None:
        """Bring the schedule in step with the jobs: a kill may come between storing the two."""
        jobs = {job.id: job for job in self.find() if job.cron}
        for scheduled in self.scheduler.get_jobs():
            if scheduled.id not in jobs:
                self.scheduler.remove_job(scheduled.id)
        for job in jobs.values():
            scheduled = self.scheduler.get_job(job.id)
            if scheduled is None or str(scheduled.trigger) != str(crontab(job.cron or "")):
                self._schedule(job)

    def _schedule(self, job: Job) -> None:
        self.scheduler.add_job(
            "backend.runtime:fire_job", crontab(job.cron or ""), args=[job.id], id=job.id, name=job.name,
            replace_existing=True,
        )  # fmt: skip

    def close(self) -> None:
        """Stop; open runs go on at the next start."""
        self._stopping.set()
        if self.scheduler.running:
            self.scheduler.shutdown(wait=False)
        self._workers.shutdown(wait=False, cancel_futures=True)

    # ---- what users do -------------------------------------------------------------------------------------------

    @staticmethod
    def prompts(name: str, data: bytes) -> list[str]:
        """The prompts in a file; see `prompts.read_prompts`."""
        return read_prompts(name, data)

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
        if cron:
            crontab(cron)
        job = Job(
            name=name.strip() or "Untitled job", prompts=prompts, system=system, max_tokens=max_tokens,
            temperature=temperature, documents=documents, cron=cron,
        )
        with self._database.session() as session:
            session.add(job)
        if cron:
            self._schedule(job)
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

    def fire(self, job_id: str) -> None:
        """Start a run because its time has come; skipped while an earlier run of the job goes on."""
        with self._database.session() as session:
            query = select(JobRun.id).where(JobRun.job_id == job_id, col(JobRun.state).in_(OPEN))
            going_on = session.exec(query).first()
        if going_on is not None:
            log.warning("job %s is not run now: its run %s has not ended", job_id, going_on)
            return
        self.run(job_id)

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

        while True:
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
                    )  # fmt: skip
                    break
                error = generation.error
            except TenfoldError as raised:
                error = raised
            except Exception as raised:
                log.exception("prompt %d of run %s failed", position, run_id)
                error = TenfoldError(f"This prompt could not be run: {raised}")
            if error.status in WAITS:  # an outage costs nothing but time
                self._stopping.wait(RETRY_SECONDS)
                continue
            result = JobResult(run_id=run_id, position=position, error=error.message)
            break
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
            request = grounded_request(self._ground(prompt, job.system, job.max_tokens), **common)
        else:
            system = [{"role": "system", "content": job.system}] if job.system.strip() else []
            request = TextRequest(messages=[*system, {"role": "user", "content": prompt}], **common)
        generation = self._generations.start(self._generations.prepare(request))
        while not generation.wait(0.25):
            if ended():
                self._generations.cancel(generation)
                return None
        return generation
