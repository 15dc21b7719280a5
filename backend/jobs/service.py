"""What a user does with jobs: make, list, run, cancel and delete them. What may run beside what, the database says.

How runs go is read by `runs`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from datetime import datetime

from sqlalchemy import ColumnElement
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, func, insert, select, update

from backend.errors import ConflictError, InvalidInputError, NotFoundError
from backend.generation.request import TextRequest
from backend.generation.service import GenerationService
from backend.jobs.dispatcher import Dispatcher
from backend.jobs.estimate import Estimate, estimate
from backend.jobs.job import OPEN, Ground, check_job, request_for
from backend.jobs.prompts import read_prompts
from backend.jobs.record import RunRecord
from backend.jobs.runner import Runner
from backend.jobs.runs import Runs
from backend.jobs.schedule import Schedule, following, upcoming, zone_name
from backend.jobs.words import in_words
from backend.store.database import Database
from backend.store.tables.jobs import Job, JobPrompt, JobRun, RunState

GRACE_SECONDS = 3600
"""How late a run may begin, of a server that did not run when its time came."""
TOGETHER = 1000
"""Prompts that are written at once."""


class Jobs(Runs):
    """The jobs of this server.

    Args:
        database: where everything about them is.
        generations: who answers.
        ground: finds passages for jobs that answer from documents.
        admit: called with a key's id before anything is done for a prompt of its runs; raises where its budget is used
            up, which the run then waits for.
    """

    def __init__(
        self, database: Database, generations: GenerationService, ground: Ground,
        admit: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        super().__init__(database)
        self._generations, self._ground, self._admit = generations, ground, admit
        self._dispatcher = Dispatcher(database, self._runner)
        self._schedule = Schedule(database, self.fire)

    def _runner(self, record: RunRecord, workers: Executor) -> Runner:
        def make(prompt: str) -> TextRequest:
            self._admit(record.key_id)
            return request_for(record.job, prompt, self._ground, record.key_id)

        return Runner(record, self._generations, make, workers)

    def start(self) -> None:
        """Start the schedule and take up runs that were interrupted."""
        self._schedule.start()
        self._dispatcher.start()

    def close(self) -> None:
        """Stop; open runs go on at the next start."""
        self._schedule.close()
        self._dispatcher.close()

    @property
    def zone(self) -> str:
        """The time zone in which schedules are read."""
        return zone_name()

    @staticmethod
    def in_words(cron: str) -> str:
        """What a schedule means; raises InvalidInputError where it cannot be read."""
        return in_words(cron)

    @staticmethod
    def upcoming(cron: str, count: int) -> list[float]:
        """When a schedule fires next, in seconds since the epoch; raises InvalidInputError where it never does."""
        return upcoming(cron, time.time(), count)

    # ---- jobs ----------------------------------------------------------------------------------------------------

    @staticmethod
    def prompts(name: str, data: bytes) -> list[str]:
        """The prompts in a file; see `prompts.read_prompts`."""
        return read_prompts(name, data)

    def create(
        self,
        name: str,
        prompts: Iterable[str],
        *,
        system: str = "",
        max_tokens: int = 128,
        temperature: float = 0.0,
        documents: bool = False,
        cron: str | None = None,
        key_id: str = "",
    ) -> Job:
        """Store a job; with `cron` (five fields, the server's time) it runs by itself, else call `run`.

        What its scheduled runs cost is the key's of `key_id`.

        Raises:
            InvalidInputError: no prompts, a parameter out of range, or a schedule that cannot be read.
        """
        job = Job(
            name=name.strip() or "Untitled job", system=system, max_tokens=max_tokens, temperature=temperature,
            documents=documents, cron=cron or None, next_run=following(cron, time.time()) if cron else None,
            key_id=key_id,
        )  # fmt: skip
        check_job(job)
        with self._database.session() as session:
            session.add(job)
            session.flush()
            numbered = enumerate(prompts)
            while some := list(itertools.islice(numbered, TOGETHER)):
                rows = [{"job_id": job.id, "position": position, "text": text} for position, text in some]
                session.connection().execute(insert(JobPrompt), rows)
                job.total += len(some)
            if not job.total:
                raise InvalidInputError("A job needs at least one prompt.", param="prompts")
            session.add(job)
        self._schedule.wake()
        return job

    def estimate(self, prompts: list[str], *, system: str, max_tokens: int, documents: bool) -> Estimate:
        """What a job would take on this machine, as far as earlier ones tell."""
        job = Job(name="", system=system, max_tokens=max_tokens)

        def count(prompt: str) -> int:
            return len(self._generations.prepare(request_for(job, prompt, self._ground)).token_ids)

        return estimate(self._database, prompts, count, max_tokens=max_tokens, documents=documents)

    def get(self, job_id: str) -> Job:
        """One job.

        Raises:
            NotFoundError: there is none of this id.
        """
        with self._database.session() as session:
            job = session.get(Job, job_id)
        if job is None:
            raise NotFoundError("There is no such job; it may have been deleted.")
        return job

    def find(self, *, offset: int = 0, limit: int = 200, soonest: bool = False) -> list[Job]:
        """Jobs, latest first, without their prompts; `soonest` puts those before them that a schedule will run."""
        order = [col(Job.next_run).is_(None), col(Job.next_run)] if soonest else []
        query = select(Job).order_by(*order, col(Job.created).desc(), col(Job.id)).offset(offset).limit(limit)
        with self._database.session() as session:
            return list(session.exec(query).all())

    def count(self) -> int:
        """How many jobs there are."""
        with self._database.session() as session:
            return session.exec(select(func.count()).select_from(Job)).one()

    def delete(self, job_id: str) -> None:
        """Delete a job with its schedule, prompts, runs and results."""
        with self._database.session() as session:
            going_on = session.exec(select(JobRun.id).where(JobRun.job_id == job_id, _open())).all()
            job = session.get(Job, job_id)
            if job is not None:
                session.delete(job)
        for run_id in going_on:
            self._dispatcher.stop(run_id)

    # ---- runs ----------------------------------------------------------------------------------------------------

    def run(self, job_id: str, *, key_id: str = "") -> JobRun:
        """Start a run now, which is the key's of `key_id`; returns at once.

        Raises:
            NotFoundError: there is no such job.
            ConflictError: a run of it goes on.
        """
        job = self.get(job_id)
        run = JobRun(job_id=job_id, total=job.total, key_id=key_id)
        try:
            with self._database.session() as session:
                session.add(run)
        except IntegrityError as error:
            self.get(job_id)  # deleted meanwhile
            raise ConflictError("A run of this job goes on; wait until it has ended, or cancel it.") from error
        self._dispatcher.wake()
        return run

    def fire(self, job_id: str) -> None:
        """Start a run if its time has come; skipped, and noted with the job, while an earlier run goes on.

        That it fired, and the run, are one commit: neither a kill nor a second process fires twice or never.
        """
        now = time.time()
        with self._database.session() as session:
            job = session.get(Job, job_id)
        if job is None or job.cron is None or job.next_run is None or job.next_run > now:
            return
        due = job.next_run
        moved = update(Job).where(col(Job.id) == job_id, col(Job.next_run) == due)
        ahead = following(job.cron, now)
        try:
            with self._database.session() as session:
                if not session.connection().execute(moved.values(next_run=ahead)).rowcount:
                    return  # another process fired it
                note = ""
                if now - due > GRACE_SECONDS:
                    note = "the server was not running then"
                elif session.exec(select(JobRun.id).where(JobRun.job_id == job_id, _open())).first():
                    note = "the run before had not ended"
                else:
                    session.add(JobRun(job_id=job_id, total=job.total, key_id=job.key_id))
                note = f"Not run on {datetime.fromtimestamp(due):%d %b %Y, %H:%M}: {note}." if note else ""
                session.connection().execute(update(Job).where(col(Job.id) == job_id).values(note=note))
        except IntegrityError:
            return  # a run was begun at this very moment: the next look finds it
        self._dispatcher.wake()

    def cancel(self, run_id: str) -> None:
        """End a run, at once, whatever it waits for; finished results stay."""
        end = update(JobRun).where(col(JobRun.id) == run_id, _open())
        values = {"state": RunState.CANCELLED, "finished": time.time(), "reason": ""}
        with self._database.session() as session:
            session.connection().execute(end.values(**values))
        self._dispatcher.stop(run_id)

    def delete_run(self, run_id: str) -> None:
        """Delete a run with its results; one that goes on ends at once. Its job stays."""
        with self._database.session() as session:
            run = session.get(JobRun, run_id)
            if run is not None:
                session.delete(run)
        self._dispatcher.stop(run_id)


def _open() -> ColumnElement[bool]:
    return col(JobRun.state).in_(OPEN)
