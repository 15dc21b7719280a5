"""Sees one batch to its end, from wherever it is: checks its file, has its requests run, and ends it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, BinaryIO

from backend.batches.ending import Ending
from backend.batches.line import Answering
from backend.batches.record import BatchRecord
from backend.batches.runner import Runner
from backend.batches.validate import FileCheck
from backend.errors import NotFoundError
from backend.files.catalogue import Catalogue
from backend.generation.service import GenerationService
from backend.store.database import Database
from backend.store.tables.batches import Batch, BatchStatus

log = logging.getLogger(__name__)

GONE: dict[str, Any] = {
    "code": "invalid_file", "line": None, "param": "input_file_id",
    "message": "The file's bytes are not kept any more; upload it again.",
}  # fmt: skip


class Driver:
    """A thread that drives one batch.

    Args:
        database, files: where it is, and its files.
        batch_id: of it.
        ending: ends it.
        generations, answering: who answers, and how.
        workers: where requests are begun.
        served: the model that is served at each endpoint.
        most_lines: that it may have.
        done: called with its id, and whether all went well, when it is left.
    """

    def __init__(
        self, database: Database, batch_id: str, files: Catalogue, ending: Ending, generations: GenerationService,
        answering: Answering, workers: Executor, served: Mapping[str, str], most_lines: int,
        done: Callable[[str, bool], None],
    ) -> None:  # fmt: skip
        self._record, self._files, self._ending = BatchRecord(database, batch_id), files, ending
        self._generations, self._answering, self._workers = generations, answering, workers
        self._served, self._most_lines, self._done = served, most_lines, done
        self._runner: Runner | None = None
        self._cut, self._stopped = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="batch", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def leave(self) -> None:
        """Run no more of it, and end it; returns at once."""
        self._cut.set()
        if self._runner is not None:
            self._runner.stop()

    def stop(self) -> None:
        """Leave it as it is; returns at once."""
        self._stopped.set()
        self.leave()

    def join(self, timeout: float) -> None:
        """Wait until it is left."""
        self._thread.join(timeout)

    def _work(self) -> None:
        well = False
        try:
            self._drive()
            well = True
        except Exception as error:
            log.exception("a batch could not be driven on")
            with suppress(Exception):
                self._record.wait_for(f"Something went wrong here, and is tried again: {error}")
        finally:
            self._done(self._record.batch_id, well)

    def _drive(self) -> None:
        batch = self._record.read()
        try:
            source = self._files.referred(batch.source_id)
            file = self._files.open(source) if source is not None else None
        except NotFoundError:
            file = None
        if file is None:
            return self._without_bytes(batch)
        with file:
            if batch.status is BatchStatus.VALIDATING:
                self._check(batch, file)
                batch = self._record.read()
            if batch.status is BatchStatus.IN_PROGRESS:
                self._run(batch, file)
                batch = self._record.read()
            if batch.status in (BatchStatus.FINALIZING, BatchStatus.CANCELLING) and not self._stopped.is_set():
                self._ending.finish(self._record, file)
        return None

    def _without_bytes(self, batch: Batch) -> None:
        """Somebody took the bytes from the folder: nothing more can be run."""
        if batch.open:
            self._record.enter(BatchStatus.VALIDATING, after=batch.status)
            self._ending.fail(self._record, [GONE])

    def _check(self, batch: Batch, file: BinaryIO) -> None:
        model = self._served[batch.endpoint]
        check = FileCheck(batch.endpoint, model, self._most_lines, self._cut.is_set)
        self._record.keep_lines(check.lines(file))
        if self._cut.is_set():
            return  # only a part of it was read
        if check.checked.errors:
            self._ending.fail(self._record, check.checked.errors)
            return
        self._record.enter(
            BatchStatus.IN_PROGRESS, after=BatchStatus.VALIDATING, total=check.checked.total, model=model,
            in_progress_at=time.time(),
        )  # fmt: skip

    def _run(self, batch: Batch, file: BinaryIO) -> None:
        self._runner = Runner(
            self._record, batch, file, self._answering, self._generations.cancel,
            lambda: self._generations.engine_state, self._workers,
        )  # fmt: skip
        if self._cut.is_set():
            self._runner.stop()
        self._runner.drive()
        over = not self._cut.is_set() or batch.expires <= time.time()
        if over and not self._stopped.is_set():
            self._record.enter(BatchStatus.FINALIZING, after=BatchStatus.IN_PROGRESS, finalizing_at=time.time())
