"""One run in the database, as the process that drives it reads and writes it. Knows nothing of models and threads.

Everything is written only while the run is this holder's: one that was taken over, or deleted, stays untouched.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, and_, col, func, insert, select, update

from backend.jobs.job import OPEN
from backend.store.database import Database
from backend.store.tables.jobs import Job, JobPrompt, JobResult, JobRun, RunState


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt and its place among the others of its job."""

    position: int
    text: str


class RunRecord:
    """A run that is held.

    Attributes:
        run_id: of the run.
        job: what to run; as it was when the run was taken up.
        key_id: of the key that began it.
    """

    def __init__(self, database: Database, job: Job, run_id: str, holder: str, key_id: str = "") -> None:
        self._database, self._holder = database, holder
        self.run_id, self.job, self.key_id = run_id, job, key_id

    def pending(self, after: int, limit: int) -> list[Prompt]:
        """The next prompts behind a position that have no result yet, in order."""
        answered = and_(col(JobResult.run_id) == self.run_id, col(JobResult.position) == col(JobPrompt.position))
        query = (
            select(JobPrompt.position, JobPrompt.text)
            .outerjoin(JobResult, answered)
            .where(JobPrompt.job_id == self.job.id, JobPrompt.position > after, col(JobResult.position).is_(None))
            .order_by(col(JobPrompt.position))
            .limit(limit)
        )
        with self._database.session() as session:
            return [Prompt(position, text) for position, text in session.exec(query).all()]

    def store(self, results: list[JobResult]) -> bool:
        """Keep results and count them, all in one commit; False where the run is no longer this holder's."""
        with self._database.session() as session:
            counted = self._change(
                session,
                done=JobRun.done + len(results),
                failed=JobRun.failed + sum(bool(result.error) for result in results),
                cost=JobRun.cost + sum(result.cost for result in results),
                output_tokens=JobRun.output_tokens + sum(result.output_tokens for result in results),
            )
            if counted:
                rows = [result.model_dump() for result in results]
                session.connection().execute(insert(JobResult), rows)
        return counted

    def enter(self, state: RunState, reason: str = "") -> None:
        """Say how the run goes."""
        with self._database.session() as session:
            begun = {"started": func.coalesce(JobRun.started, time.time())} if state is RunState.RUNNING else {}
            self._change(session, only_open=True, state=state, reason=reason, **begun)

    def end(self, state: RunState, reason: str = "") -> None:
        """Close the run."""
        with self._database.session() as session:
            self._change(session, only_open=True, state=state, reason=reason, finished=time.time())

    def release(self) -> None:
        """Let another process take the run up, at once."""
        with self._database.session() as session:
            self._change(session, holder="")

    def _change(self, session: Session, *, only_open: bool = False, **values: Any) -> bool:
        change = update(JobRun).where(col(JobRun.id) == self.run_id, col(JobRun.holder) == self._holder)
        if only_open:
            change = change.where(col(JobRun.state).in_(OPEN))
        return bool(session.connection().execute(change.values(heard=time.time(), **values)).rowcount)
