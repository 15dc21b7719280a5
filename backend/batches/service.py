"""What a caller does with batches: make, look at and cancel them; and the thread that sees them to their end."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlmodel import col, func, select, update

from backend.batches.drive import Driver
from backend.batches.ending import Ending
from backend.batches.line import Answering
from backend.errors import ConflictError, InvalidInputError, NotFoundError
from backend.files.catalogue import Catalogue
from backend.generation.service import GenerationService
from backend.store.database import Database
from backend.store.tables.batches import Batch, BatchStatus

log = logging.getLogger(__name__)

OPEN = (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING, BatchStatus.CANCELLING)
"""Statuses of a batch that has not ended."""
WINDOWS = {"24h": 24 * 3600}
"""Seconds of each completion window."""
SENT_AGAIN = 600.0
"""Seconds within which a request that says it is sent again is taken for the one before it."""
MOST_DRIVEN = 8
"""Batches that go on at once; those behind them wait their turn."""
WORKERS = 8
"""Threads of all batches that begin requests: tokenizing, retrieval, embedding."""
BEAT = 2.0
"""Seconds between two looks at what there is to do."""
PAUSE = 30.0
"""Seconds before a batch is taken up again that could not be driven on."""
FAREWELL = 5.0
"""Seconds that batches have to store what has ended when the server stops."""


class Batches:
    """The batches of this server.

    Args:
        database: where everything about them is.
        files: their files.
        generations: who answers.
        served: the model that is served at each endpoint.
        most_lines: of one batch.
        ended: called when one has ended.
    """

    def __init__(
        self, database: Database, files: Catalogue, generations: GenerationService, served: Mapping[str, str],
        most_lines: int, ended: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._database, self._files, self._generations = database, files, generations
        self._served, self._most_lines, self._ended = served, most_lines, ended
        self._ending = Ending(database, files)
        self._answering: Answering | None = None
        self._drivers: dict[str, Driver] = {}
        self._resting: dict[str, float] = {}  # until when those that could not be driven on are left alone
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="batch-begin")
        self._creating = threading.Lock()
        self._changed, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)

    def start(self, answering: Answering) -> None:
        """Begin; batches that were interrupted go on.

        Args:
            answering: answers one request, as its endpoint would.
        """
        self._answering = answering
        self._files.sweep()
        self._thread.start()

    def close(self) -> None:
        """Stop; open batches go on at the next start."""
        self._closing.set()
        self._changed.set()
        deadline = time.monotonic() + FAREWELL
        if self._thread.is_alive():
            self._thread.join(FAREWELL)
        drivers = list(self._drivers.values())
        for driver in drivers:
            driver.stop()
        for driver in drivers:
            driver.join(max(deadline - time.monotonic(), 0.0))
        self._workers.shutdown(wait=False, cancel_futures=True)

    # ---- batches -------------------------------------------------------------------------------------------------

    def create(
        self, tenant: str, key_id: str, *, endpoint: str, input_file_id: str, completion_window: str = "24h",
        metadata: dict[str, str] | None = None, output_seconds: int | None = None, request_key: str | None = None,
        sent_again: bool = False,
    ) -> Batch:  # fmt: skip
        """Make a batch, which is then run by itself.

        Args:
            tenant: whose it is.
            key_id: of the key that its requests are booked to.
            endpoint: of all its requests.
            input_file_id: of the file that holds them.
            completion_window: in which it is run, or ends with what was run of it.
            metadata: the caller's own notes.
            output_seconds: after which its result files expire.
            request_key: a name for this very request: one that comes again with it is answered as it was before.
            sent_again: the client says that it did not get an answer; if the one before was taken, this is it.

        Raises:
            InvalidInputError: nothing like this can be run here.
            NotFoundError: there is no such file.
            ConflictError: another request had this `request_key`.
        """
        if endpoint not in self._served:
            known = ", ".join(self._served)
            raise InvalidInputError(f"Batches are run for {known}; not for {endpoint!r}.", param="endpoint")
        if completion_window not in WINDOWS:
            raise InvalidInputError(
                f"completion_window must be {' or '.join(WINDOWS)}.", param="completion_window"
            )
        asked = json.dumps([endpoint, input_file_id, completion_window, metadata, output_seconds], sort_keys=True)
        digest = hashlib.sha256(asked.encode()).hexdigest()
        with self._creating:
            before = self._before(tenant, digest, request_key, sent_again)
            if before is not None:
                return before
            file = self._files.get(input_file_id, tenant, param="input_file_id")
            if file.purpose != "batch":
                raise InvalidInputError(
                    f'The file is for {file.purpose!r}; upload it with the purpose "batch".', param="input_file_id"
                )
            now = time.time()
            with self._database.session() as session:
                source = self._files.reference(session, file)
                batch = Batch(
                    tenant=tenant, key_id=key_id, endpoint=endpoint, input_file_id=file.id, input_name=file.name,
                    source_id=source.id, completion_window=completion_window, tags=metadata,
                    output_seconds=output_seconds, request_key=request_key, request_digest=digest, created=now,
                    expires=now + WINDOWS[completion_window],
                )  # fmt: skip
                session.add(batch)
        self._changed.set()
        return batch

    def _before(self, tenant: str, digest: str, request_key: str | None, sent_again: bool) -> Batch | None:
        """The batch that this request has made already."""
        query = select(Batch).where(Batch.tenant == tenant)
        if request_key is not None:
            query = query.where(Batch.request_key == request_key)
        elif sent_again:
            query = query.where(Batch.request_digest == digest, Batch.created > time.time() - SENT_AGAIN)
        else:
            return None
        with self._database.session() as session:
            batch = session.exec(query.order_by(col(Batch.id).desc())).first()
        if batch is not None and batch.request_digest != digest:
            raise ConflictError("Another request had this Idempotency-Key; send each request with its own.")
        return batch

    def get(self, batch_id: str, tenant: str) -> Batch:
        """One batch of a tenant's.

        Raises:
            NotFoundError: there is none of this id, or it is another's.
        """
        with self._database.session() as session:
            batch = session.exec(select(Batch).where(Batch.id == batch_id, Batch.tenant == tenant)).first()
        if batch is None:
            raise NotFoundError(f"There is no batch {batch_id!r}.")
        return batch

    def page(self, tenant: str, *, after: str | None = None, limit: int = 20) -> list[Batch]:
        """Batches of a tenant's, latest first, behind the one of an id."""
        query = select(Batch).where(Batch.tenant == tenant)
        if after is not None:
            query = query.where(Batch.id < after)
        with self._database.session() as session:
            return list(session.exec(query.order_by(col(Batch.id).desc()).limit(limit)).all())

    def count(self, tenant: str) -> int:
        """How many batches a tenant has."""
        with self._database.session() as session:
            return session.exec(select(func.count()).select_from(Batch).where(Batch.tenant == tenant)).one()

    def cancel(self, batch_id: str, tenant: str) -> Batch:
        """End a batch: what was run is in its files, the rest is not run. One that is being cancelled stays so.

        Raises:
            NotFoundError: there is none of this id, or it is another's.
            ConflictError: it has ended, or is about to.
        """
        batch = self.get(batch_id, tenant)
        going_on = (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS)
        change = update(Batch).where(col(Batch.id) == batch_id, col(Batch.status).in_(going_on))
        values = {"status": BatchStatus.CANCELLING, "cancelling_at": time.time()}
        with self._database.session() as session:
            changed = session.connection().execute(change.values(**values)).rowcount
        batch = self.get(batch_id, tenant)
        if not changed and batch.status not in (BatchStatus.CANCELLING, BatchStatus.CANCELLED):
            raise ConflictError(f"A batch that is {batch.status} cannot be cancelled.")
        driver = self._drivers.get(batch_id)
        if driver is not None:
            driver.leave()
        self._changed.set()
        return batch

    # ---- the thread ----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._closing.is_set():
            self._changed.clear()
            for task in (self._take_up, self._files.drop_expired):
                self._safely(task)
            self._changed.wait(BEAT)

    @staticmethod
    def _safely(task: Callable[[], Any]) -> None:
        try:
            task()
        except Exception:
            log.exception("batches could not be looked at")

    def _take_up(self) -> None:
        driven, now = set(self._drivers), time.time()
        resting = {batch_id for batch_id, until in self._resting.items() if until > now}
        query = select(Batch.id, Batch.status, Batch.expires).where(col(Batch.status).in_(OPEN))
        with self._database.session() as session:
            rows = session.exec(query.order_by(col(Batch.id))).all()
        for batch_id, status, expires in rows:
            if batch_id in driven or batch_id in resting:
                continue
            ending = status in (BatchStatus.FINALIZING, BatchStatus.CANCELLING) or expires <= now
            if len(driven) < MOST_DRIVEN or ending:  # what only has to be ended waits for nobody
                driven.add(batch_id)
                self._drive(batch_id)

    def _drive(self, batch_id: str) -> None:
        assert self._answering is not None
        self._drivers[batch_id] = driver = Driver(
            self._database, batch_id, self._files, self._ending, self._generations, self._answering, self._workers,
            self._served, self._most_lines, done=self._done,
        )  # fmt: skip
        driver.start()

    def _done(self, batch_id: str, well: bool) -> None:
        if not well:
            self._resting[batch_id] = time.time() + PAUSE
        self._drivers.pop(batch_id, None)
        self._changed.set()
        self._ended()
