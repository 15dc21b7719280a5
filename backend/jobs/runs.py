"""How the runs of jobs go, and what they answered, as the database has it. Begins and ends none."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping

from sqlmodel import col, func, select

from backend.errors import NotFoundError
from backend.jobs.results import ResultTable, result_pages, result_table
from backend.store.database import Database
from backend.store.tables.jobs import Job, JobRun


class Runs:
    """The runs of this server's jobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def progress(self, run_id: str) -> JobRun:
        """How far a run is.

        Raises:
            NotFoundError: there is no such run.
        """
        with self._database.session() as session:
            run = session.get(JobRun, run_id)
        if run is None:
            raise NotFoundError("There is no such run; its job may have been deleted.")
        return run

    def runs(self, job_id: str, limit: int = 20) -> list[JobRun]:
        """Runs of a job, latest first."""
        query = select(JobRun).where(JobRun.job_id == job_id).order_by(col(JobRun.created).desc()).limit(limit)
        with self._database.session() as session:
            return list(session.exec(query).all())

    def recent(self, limit: int = 20) -> list[tuple[JobRun, Job]]:
        """The latest runs of all jobs, latest first."""
        query = select(JobRun, Job).join(Job).order_by(col(JobRun.created).desc(), col(JobRun.id)).limit(limit)
        with self._database.session() as session:
            return [(run, job) for run, job in session.exec(query).all()]

    def run_count(self) -> int:
        """How many runs there are, of all jobs."""
        with self._database.session() as session:
            return session.exec(select(func.count()).select_from(JobRun)).one()

    def latest(self, job_ids: Iterable[str], limit: int = 5) -> Mapping[str, list[JobRun]]:
        """The latest runs of each of some jobs, latest first."""
        rank = func.row_number().over(partition_by=JobRun.job_id, order_by=col(JobRun.created).desc()).label("rank")
        ranked = select(JobRun.id, rank).where(col(JobRun.job_id).in_(list(job_ids))).subquery()
        query = select(JobRun).join(ranked, col(JobRun.id) == ranked.c.id).where(ranked.c.rank <= limit)
        found: dict[str, list[JobRun]] = {}
        with self._database.session() as session:
            for run in session.exec(query.order_by(col(JobRun.created).desc())).all():
                found.setdefault(run.job_id, []).append(run)
        return found

    def results(self, run_id: str) -> Iterator[str]:
        """The results of a run as JSON Lines, in the order of the prompts, read as they are asked for.

        Raises:
            NotFoundError: at once, where there is no such run.
        """
        return itertools.chain.from_iterable(self.result_pages(run_id))

    def result_table(
        self, run_id: str, *, contains: str = "", failed: bool = False, offset: int = 0, limit: int = 100
    ) -> ResultTable:
        """Some of the results of a run, failed ones first; see `results.result_table`. Raises as `results` does."""
        run = self.progress(run_id)
        return result_table(self._database, run, contains=contains, failed=failed, offset=offset, limit=limit)

    def result_pages(self, run_id: str) -> Iterator[list[str]]:
        """The same, some lines at a time."""
        return result_pages(self._database, self.progress(run_id))
