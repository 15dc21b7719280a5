"""Drives one run: a bounded window of its prompts is with the engine, and what ends together is stored together.

One thread drives; what ends a generation and what prepares one only send it events, so nothing waits for a prompt.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass

from backend.engine.protocol import Phase
from backend.errors import BudgetError, StorageError, TenfoldError, UnavailableError
from backend.generation.request import TextRequest
from backend.generation.service import GenerationService
from backend.generation.stream import Generation
from backend.jobs.record import Prompt, RunRecord
from backend.store.tables.jobs import JobResult, RunState
from backend.store.writer import cause, passing

log = logging.getLogger(__name__)

WINDOW = 64
"""Prompts of one run that are with the engine at once; the engine decides how many share a step."""
PAGE = 256
"""Prompts that are read from the database at once."""
TOGETHER, LINGER = 64, 0.25
"""Results are stored when there are so many, or the first has waited so many seconds."""
WAITS = (429, 503)
"""Statuses of what passes by itself: too much at once, and an engine that is not there."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds before what passes by itself is tried again: twice as long each time, until something is answered."""
LOOK = 1.0
"""Seconds between two looks at an engine that is not there."""
IDLE = 5.0
"""Seconds after which a thread to which nothing happened looks around."""


@dataclass(frozen=True, slots=True)
class Begun:
    """The engine took a prompt."""

    position: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A prompt was answered, or why it was not."""

    position: int
    generation: Generation | None = None
    error: TenfoldError | None = None


class Runner:
    """One run, while this process holds it.

    Args:
        record: the run in the database.
        generations: who answers.
        make: what to ask for a prompt; may block, for retrieval.
        workers: where requests are made.
    """

    def __init__(
        self, record: RunRecord, generations: GenerationService, make: Callable[[str], TextRequest], workers: Executor
    ) -> None:
        self._record, self._generations, self._make, self._workers = record, generations, make, workers
        self._events: queue.SimpleQueue[Begun | Ended | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._state = (RunState.QUEUED, "")
        self._page: deque[Prompt] = deque()
        self._after, self._exhausted = -1, False
        self._again: deque[Prompt] = deque()  # what has to be asked once more
        self._asked: dict[int, Prompt] = {}
        self._started: dict[int, Generation] = {}
        self._results: list[JobResult] = []
        self._oldest = 0.0  # when the first of the results was there
        self._refused = ""  # why what was asked last was not taken
        self._pause, self._paused_until = FIRST_PAUSE, 0.0

    def stop(self) -> None:
        """Leave the run as it is; returns at once. What has ended is still stored."""
        self._stopped.set()
        self._events.put(None)

    def drive(self) -> None:
        """Answer every prompt that has no result, and end the run; returns early when stopped.

        Raises:
            Exception: what is no prompt's own fault, and does not pass by itself.
        """
        try:
            while not self._stopped.is_set():
                try:
                    if self._turn():
                        return
                except Exception as error:
                    if not passing(error):
                        raise
                    log.warning("a run waits for the database: %s", cause(error))
                    self._stopped.wait(LOOK)
        finally:
            self._leave()

    def _leave(self) -> None:
        self._stopped.set()
        for generation in list(self._started.values()):
            self._generations.cancel(generation)
        with suppress(queue.Empty):
            while True:
                self._take(self._events.get_nowait())
        try:
            if self._results:
                self._record.store(self._results)
        except Exception as error:
            if not passing(error):
                raise
            log.warning("%d results are not stored and will be asked for again: %s", len(self._results), cause(error))

    def _turn(self) -> bool:
        """One turn; whether the run has come to its end."""
        self._store()
        self._look()
        self._fill()
        if self._exhausted and not (self._asked or self._again or self._page or self._results):
            self._record.end(RunState.DONE)
            return True
        self._gather()
        return False

    def _store(self) -> None:
        if not self._results:
            return
        late = time.monotonic() >= self._oldest + LINGER
        if late or len(self._results) >= TOGETHER or not self._asked:
            if not self._record.store(self._results):
                self.stop()
            self._results = []

    def _look(self) -> None:
        """Say whether the run goes on or waits, and what for."""
        engine = self._generations.engine_state
        why = self._refused if engine.phase is Phase.READY else engine.error().message
        state = (RunState.WAITING, why) if why else (RunState.RUNNING, "")
        if state != self._state:
            self._record.enter(*state)
            self._state = state

    def _fill(self) -> None:
        """Ask as much as the window holds; of a run that waits, one prompt asks whether it may go on again."""
        most = WINDOW
        if self._state[0] is RunState.WAITING:
            if self._generations.engine_state.phase is not Phase.READY:
                return
            most = 1
        if time.monotonic() < self._paused_until:
            return
        while len(self._asked) < most and (prompt := self._next()) is not None:
            self._asked[prompt.position] = prompt
            self._workers.submit(self._ask, prompt)

    def _next(self) -> Prompt | None:
        if self._again:
            return self._again.popleft()
        if not self._page and not self._exhausted:
            self._page.extend(self._record.pending(self._after, PAGE))
            self._exhausted = not self._page
            self._after = self._page[-1].position if self._page else self._after
        return self._page.popleft() if self._page else None

    def _gather(self) -> None:
        """Wait until something happens, then take all that has happened."""
        now = time.monotonic()
        until = [now + IDLE]
        if self._results:
            until.append(self._oldest + LINGER)
        if self._state[0] is RunState.WAITING:
            until.append(now + LOOK)
        if self._paused_until > now:
            until.append(self._paused_until)
        with suppress(queue.Empty):
            self._take(self._events.get(timeout=max(min(until) - now, 0.0)))
            while True:
                self._take(self._events.get_nowait())

    def _take(self, event: Begun | Ended | None) -> None:
        if isinstance(event, Begun):
            self._refused = ""
        elif event is not None:
            prompt = self._asked.pop(event.position)
            self._started.pop(event.position, None)
            error = event.error or _failure(event.generation)
            if error is not None and error.status in WAITS:  # an outage costs nothing but time
                self._again.appendleft(prompt)
                self._put_off(error)
                return
            if error is None:
                self._refused, self._pause = "", FIRST_PAUSE
            if not self._results:
                self._oldest = time.monotonic()
            self._results.append(_result(self._record.run_id, prompt.position, event.generation, error))

    def _put_off(self, error: TenfoldError) -> None:
        if isinstance(error, BudgetError):
            self._refused = f"{error.brief} The run goes on by itself then."
        elif isinstance(error, UnavailableError) and not isinstance(error, StorageError):
            self._refused = error.message
        now = time.monotonic()
        if now >= self._paused_until:  # many that fail together are one failure
            self._paused_until = now + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    # ---- in a worker ---------------------------------------------------------------------------------------------

    def _ask(self, prompt: Prompt) -> None:
        if self._stopped.is_set():
            return
        try:
            generation = self._generations.start(self._generations.prepare(self._make(prompt.text)))
        except TenfoldError as error:
            self._events.put(Ended(prompt.position, error=error))
            return
        except Exception as error:
            log.exception("prompt %d of a run failed", prompt.position)
            self._events.put(Ended(prompt.position, error=TenfoldError(f"This prompt could not be run: {error}")))
            return
        self._started[prompt.position] = generation
        generation.on_end(lambda ended: self._events.put(Ended(prompt.position, ended)))
        if not generation.ended:
            self._events.put(Begun(prompt.position))
        if self._stopped.is_set():
            self._generations.cancel(generation)


def _failure(generation: Generation | None) -> TenfoldError | None:
    """Why a generation has no answer; one that was cut off, by a server that stops, has to be asked again."""
    if generation is not None and generation.error is None and generation.finish_reason == "abort":
        return UnavailableError("The engine gave this prompt up.")
    return generation.error if generation is not None else None


def _result(run_id: str, position: int, generation: Generation | None, error: TenfoldError | None) -> JobResult:
    if error is not None or generation is None:
        return JobResult(run_id=run_id, position=position, error=error.message if error else "")
    account = generation.account
    return JobResult(
        run_id=run_id, position=position, text=generation.text.strip(),
        finish_reason=generation.finish_reason or "",
        prompt_tokens=account.prompt_tokens if account else 0,
        output_tokens=account.output_tokens if account else 0,
        cost=account.cost if account else 0.0,
    )  # fmt: skip
