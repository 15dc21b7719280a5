"""Drives one batch: a bounded window of its requests is with the engine, and what ends together is stored together.

One thread drives; what ends an answer and what begins one only send it events, so nothing waits for a request.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

from backend.batches.line import Answering, Begun, Line, LineRequest, ended_well, read_line
from backend.batches.record import FIRST, BatchRecord, Result
from backend.batches.results import request_name, result_of
from backend.engine.protocol import EngineState, Phase
from backend.errors import TenfoldError
from backend.generation.stream import Generation
from backend.store.tables.batches import Batch
from backend.store.writer import cause, passing

log = logging.getLogger(__name__)

WINDOW = 64
"""Requests of one batch that are with the engine at once; the engine decides how many share a step."""
PAGE = 256
"""Lines that are looked up at once."""
TOGETHER, LINGER = 64, 0.25
"""Results are stored when there are so many, or the first has waited so many seconds."""
WAITS = (429, 503)
"""Statuses of what passes by itself: a budget, too much at once, and an engine that is not there."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds before what passes by itself is tried again: twice as long each time, until something is answered."""
LOOK, IDLE = 1.0, 5.0
"""Seconds between two looks at an engine that is not there, and around where nothing happens."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The engine took a request, or it is answered."""

    line: Line


@dataclass(frozen=True, slots=True)
class Ended:
    """A request was answered, or why it was not."""

    line: Line
    custom_id: str
    begun: Begun | None = None
    error: TenfoldError | None = None


class Runner:
    """One batch, while this server drives it.

    Args:
        record: the batch in the database.
        batch: as it was when this began.
        file: its requests.
        answering: begins to answer one.
        cancel: ends a generation that nobody wants any more.
        engine: what the engine does.
        workers: where requests are begun.
    """

    def __init__(
        self, record: BatchRecord, batch: Batch, file: BinaryIO, answering: Answering,
        cancel: Callable[[Generation], None], engine: Callable[[], EngineState], workers: Executor,
    ) -> None:  # fmt: skip
        self._record, self._batch, self._file, self._answering = record, batch, file, answering
        self._cancel, self._engine, self._workers = cancel, engine, workers
        self._events: queue.SimpleQueue[Taken | Ended | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._waiting: str | None = None
        self._page: deque[Line] = deque()
        self._after, self._exhausted = FIRST, False
        self._again: deque[Line] = deque()  # what has to be asked once more
        self._asked: set[int] = set()
        self._begun: dict[int, Begun] = {}
        self._results: list[Result] = []
        self._oldest = 0.0  # when the first of the results was there
        self._refused = ""  # why what was asked last was not taken
        self._pause, self._paused_until = FIRST_PAUSE, 0.0

    def stop(self) -> None:
        """Leave the batch as it is; returns at once. What has ended is still stored."""
        self._stopped.set()
        self._events.put(None)

    def drive(self) -> None:
        """Answer every request that has no result; returns early when stopped, or when the batch's time is over.

        Raises:
            Exception: what is no request's own fault, and does not pass by itself.
        """
        try:
            while not self._stopped.is_set() and time.time() < self._batch.expires:
                try:
                    if self._turn():
                        return
                except Exception as error:
                    if not passing(error):
                        raise
                    log.warning("a batch waits for the database: %s", cause(error))
                    self._stopped.wait(LOOK)
        finally:
            self._leave()

    def _leave(self) -> None:
        self._stopped.set()
        for begun in list(self._begun.values()):
            for generation in begun.generations:
                self._cancel(generation)
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
        """One turn; whether every request has its result."""
        self._store()
        self._look()
        self._fill()
        if self._exhausted and not (self._asked or self._again or self._page or self._results):
            return True
        self._gather()
        return False

    def _store(self) -> None:
        if not self._results:
            return
        late = time.monotonic() >= self._oldest + LINGER
        if late or len(self._results) >= TOGETHER or not self._asked:
            self._record.store(self._results)
            self._results = []

    def _look(self) -> None:
        """Say whether the batch goes on, or what it waits for."""
        engine = self._engine()
        why = self._refused if engine.phase is Phase.READY else engine.error().message
        if why != self._waiting:
            self._record.wait_for(why)
            self._waiting = why

    def _fill(self) -> None:
        """Ask as much as the window holds; after a refusal, one request asks whether the reason for it is gone."""
        most = WINDOW
        if self._waiting:
            if self._engine().phase is not Phase.READY:
                return
            most = 1
        if time.monotonic() < self._paused_until:
            return
        while len(self._asked) < most and (line := self._next()) is not None:
            self._asked.add(line.number)
            self._workers.submit(self._ask, line)

    def _next(self) -> Line | None:
        if self._again:
            return self._again.popleft()
        if not self._page and not self._exhausted:
            self._page.extend(self._record.pending(self._after, PAGE))
            self._exhausted = not self._page
            self._after = self._page[-1] if self._page else self._after
        return self._page.popleft() if self._page else None

    def _gather(self) -> None:
        """Wait until something happens, then take all that has happened."""
        now = time.monotonic()
        until = [now + IDLE, now + max(self._batch.expires - time.time(), 0.0)]
        if self._results:
            until.append(self._oldest + LINGER)
        if self._waiting:
            until.append(now + LOOK)
        if self._paused_until > now:
            until.append(self._paused_until)
        with suppress(queue.Empty):
            self._take(self._events.get(timeout=max(min(until) - now, 0.0)))
            while True:
                self._take(self._events.get_nowait())

    def _take(self, event: Taken | Ended | None) -> None:
        if isinstance(event, Taken):
            self._refused = ""
        elif event is not None:
            self._asked.discard(event.line.number)
            self._begun.pop(event.line.number, None)
            self._end(event)

    def _end(self, event: Ended) -> None:
        try:
            if event.error is not None or event.begun is None:
                raise event.error or TenfoldError("This request was not begun.")
            ended_well(event.begun.generations)
            result = result_of(self._batch, event.line.number, event.custom_id, event.begun.answer())
        except TenfoldError as error:
            if error.status in WAITS:  # what passes costs nothing but time
                self._again.appendleft(event.line)
                self._put_off(error)
                return
            result = result_of(self._batch, event.line.number, event.custom_id, error)
        except Exception as error:
            log.exception("request %d of a batch has no answer", event.line.number)
            failure = TenfoldError(f"This request could not be answered: {error}")
            result = result_of(self._batch, event.line.number, event.custom_id, failure)
        else:
            self._refused, self._pause = "", FIRST_PAUSE
        if not self._results:
            self._oldest = time.monotonic()
        self._results.append(result)

    def _put_off(self, error: TenfoldError) -> None:
        self._refused = error.message
        now = time.monotonic()
        if now >= self._paused_until:  # many that fail together are one failure
            self._paused_until = now + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    # ---- in a worker ---------------------------------------------------------------------------------------------

    def _ask(self, line: Line) -> None:
        if self._stopped.is_set():
            return
        custom_id = ""
        try:
            read = read_line(os.pread(self._file.fileno(), line.length, line.start))
            custom_id = read["custom_id"]
            batch = self._batch
            begun = self._answering(
                LineRequest(
                    batch.endpoint, read["body"], request_name(batch, line.number), batch.key_id, batch.tenant
                )
            )
        except TenfoldError as error:
            self._events.put(Ended(line, custom_id, error=error))
            return
        except Exception as error:
            log.exception("request %d of a batch failed", line.number)
            failure = TenfoldError(f"This request could not be run: {error}")
            self._events.put(Ended(line, custom_id, error=failure))
            return
        self._follow(line, custom_id, begun)

    def _follow(self, line: Line, custom_id: str, begun: Begun) -> None:
        self._begun[line.number] = begun
        left, counting = len(begun.generations), threading.Lock()
        self._events.put(Taken(line))
        if not left:
            self._events.put(Ended(line, custom_id, begun))

        def ended(_: Generation) -> None:
            nonlocal left
            with counting:
                left -= 1
                last = left == 0
            if last:
                self._events.put(Ended(line, custom_id, begun))

        for generation in begun.generations:
            generation.on_end(ended)
        if self._stopped.is_set():
            for generation in begun.generations:
                self._cancel(generation)
