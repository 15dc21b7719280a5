"""Stands where generations are made, without a model: a thread answers what is asked, in order.

As a program it serves the jobs of a database until it is killed: `python -m tests.jobs.standin DATABASE LOG`.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backend.engine.protocol import EngineState, Phase
from backend.errors import UnavailableError
from backend.generation.request import Prepared, TextRequest
from backend.generation.stream import Generation, Piece
from backend.jobs import dispatcher
from backend.jobs.service import Jobs
from backend.store.database import Database
from backend.store.tables.jobs import Job, JobRun


class StandIn:
    """A generation service whose engine can be taken away.

    Attributes:
        answering: cleared, what is asked waits.
        left: how many are answered before that waits by itself.
        away: whether the engine refuses whatever it is asked.
        asked: the requests that were begun.
        most: how many were open at once.
        log: a file that gets a line for each prompt begun.
    """

    def __init__(self, log: Path | None = None, delay: float = 0.0) -> None:
        self.answering = threading.Event()
        self.answering.set()
        self.left: float = float("inf")
        self.away = False
        self.refusals = 0
        self.asked: list[TextRequest] = []
        self.most = 0
        self._log, self._delay = log, delay
        self._open: dict[str, Generation] = {}
        self._line: queue.SimpleQueue[Generation] = queue.SimpleQueue()
        self.engine_state = EngineState(Phase.READY)
        threading.Thread(target=self._answer, daemon=True).start()

    def take_away(self) -> None:
        """As a killed engine: what it was asked fails, and what comes is refused."""
        self.away = True
        self.engine_state = EngineState(Phase.RESTARTING, "The engine is started again.")
        for generation in list(self._open.values()):
            generation.fail(UnavailableError("The engine ended."))

    def bring_back(self) -> None:
        self.away = False
        self.engine_state = EngineState(Phase.READY)

    def prepare(self, request: TextRequest) -> Prepared:
        return Prepared(request, [1], request.sampling)

    def start(self, prepared: Prepared) -> Generation:
        request = prepared.request
        generation = Generation(request)
        if self.away:
            self.refusals += 1
            generation.fail(UnavailableError("The engine is away."))
            return generation
        if "odd" in request.question:
            raise RuntimeError("surrogates not allowed")
        if self._log is not None:
            with self._log.open("a") as log:  # one write each, so that a kill cuts no line
                log.write(f"{request.question}\n")
        self.asked.append(request)
        generation.begin(prepared)
        self._open[generation.id] = generation
        self.most = max(self.most, len(self._open))
        generation.on_end(lambda ended: self._open.pop(ended.id, None))
        self._line.put(generation)
        return generation

    def cancel(self, generation: Generation) -> None:
        generation.finish("abort")

    def _answer(self) -> None:
        while True:
            generation = self._line.get()
            if self.left <= 0:
                self.answering.clear()
            self.answering.wait()
            self.left -= 1
            if self._delay:
                time.sleep(self._delay)
            generation.push(Piece(f"{generation.request.question}, answered by {os.getpid()}", 1, None))
            generation.finish("stop")


def make_jobs(database: Database, answers: StandIn, admit: Callable[[str], None] = lambda _: None) -> Jobs:
    """Jobs of a database that a stand-in answers, where `admit` lets it."""

    def ground(*_: Any) -> Any:
        raise AssertionError("no documents were asked for")

    return Jobs(database, answers, ground, admit)  # type: ignore[arg-type]


def latest(jobs: Jobs, job: Job) -> JobRun:
    return jobs.runs(job.id)[0]


def main() -> None:
    dispatcher.BEAT, dispatcher.LEASE = 0.1, 0.5
    database = Database(f"sqlite:///{sys.argv[1]}")
    make_jobs(database, StandIn(Path(sys.argv[2]), delay=0.002)).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
