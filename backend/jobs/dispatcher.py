"""Takes up the runs that are open, a few at a time, each by one process: the database says whose it is.

A holder says every few seconds that it lives; the runs of one that is silent, since it was killed, are taken over.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor

from sqlalchemy import ColumnElement
from sqlmodel import col, or_, select, update

from backend.jobs.job import OPEN
from backend.jobs.record import RunRecord
from backend.jobs.runner import Runner
from backend.store.database import Database
from backend.store.ids import new_id
from backend.store.tables.jobs import Job, JobRun, RunState

log = logging.getLogger(__name__)

MOST_RUNS = 4
"""Runs that go on at once in this process."""
WORKERS = 8
"""Threads of all runs that make requests: tokenizing and retrieval."""
BEAT, LEASE = 3.0, 15.0
"""Seconds between two signs of life, and of silence after which a run is another's to take up."""
FAREWELL = 5.0
"""Seconds that runs have to store what has ended when the server stops."""

MakeRunner = Callable[[RunRecord, Executor], Runner]


class Dispatcher:
    """One per process.

    Args:
        database: where the runs are.
        make_runner: (run, workers that make its requests) → what drives it.
    """

    def __init__(self, database: Database, make_runner: MakeRunner) -> None:
        self._database, self._make_runner = database, make_runner
        self._holder = new_id()
        self._runners: dict[str, tuple[Runner, threading.Thread]] = {}
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="job-prepare")
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)

    def start(self) -> None:
        """Begin; runs that were interrupted go on."""
        self._thread.start()

    def wake(self) -> None:
        """Look for open runs now."""
        self._changed.set()

    def stop(self, run_id: str) -> None:
        """Stop driving a run, if this process does; returns at once."""
        held = self._runners.get(run_id)
        if held is not None:
            held[0].stop()

    def close(self) -> None:
        """Stop driving; open runs go on at the next start, or elsewhere."""
        self._closing.set()
        self._changed.set()
        deadline = time.monotonic() + FAREWELL
        if self._thread.is_alive():
            self._thread.join(FAREWELL)
        held = list(self._runners.values())
        for runner, _ in held:
            runner.stop()
        for _, thread in held:
            thread.join(max(deadline - time.monotonic(), 0.0))
        self._workers.shutdown(wait=False, cancel_futures=True)

    # ---- the thread ----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._closing.is_set():
            self._changed.clear()
            try:
                self._beat()
                self._take_up()
            except Exception:
                log.exception("open runs could not be looked at")
            self._changed.wait(BEAT)

    def _beat(self) -> None:
        """Say that this process lives; leave runs that were cancelled or deleted by another, or taken over."""
        mine = col(JobRun.holder) == self._holder, col(JobRun.state).in_(OPEN)
        driven = dict(self._runners)
        if not driven:
            return
        with self._database.session() as session:
            session.connection().execute(update(JobRun).where(*mine).values(heard=time.time()))
            held = set(session.exec(select(JobRun.id).where(*mine)).all())
        for run_id, (runner, _) in driven.items():
            if run_id not in held:
                runner.stop()

    def _take_up(self) -> None:
        free = MOST_RUNS - len(self._runners)
        if free <= 0:
            return
        unheld = self._unheld()
        with self._database.session() as session:
            query = select(JobRun.id, JobRun.key_id, Job).join(Job).where(*unheld).order_by(col(JobRun.created))
            found = session.exec(query.limit(free)).all()
        for run_id, key_id, job in found:
            claim = update(JobRun).where(col(JobRun.id) == run_id, *unheld)
            with self._database.session() as session:
                claimed = session.connection().execute(claim.values(holder=self._holder, heard=time.time())).rowcount
            if claimed:
                self._begin(RunRecord(self._database, job, run_id, self._holder, key_id))

    @staticmethod
    def _unheld() -> tuple[ColumnElement[bool], ColumnElement[bool]]:
        silent = col(JobRun.heard) < time.time() - LEASE
        return col(JobRun.state).in_(OPEN), or_(col(JobRun.holder) == "", silent)

    def _begin(self, record: RunRecord) -> None:
        runner = self._make_runner(record, self._workers)
        thread = threading.Thread(target=self._drive, args=(record, runner), name="job-run", daemon=True)
        self._runners[record.run_id] = runner, thread
        thread.start()

    def _drive(self, record: RunRecord, runner: Runner) -> None:
        try:
            runner.drive()
        except Exception as error:
            log.exception("run %s failed", record.run_id)
            reason = str(error)
            self._quietly(lambda: record.end(RunState.FAILED, reason))
        finally:
            self._quietly(record.release)
            self._runners.pop(record.run_id, None)
            self.wake()

    @staticmethod
    def _quietly(write: Callable[[], None]) -> None:
        """What the database does not take now is seen to when the lease is over."""
        try:
            write()
        except Exception:
            log.exception("a run could not be given back")
