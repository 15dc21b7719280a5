"""How a batch ends: its result files, its last status, and the news of it, in one commit."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from typing import Any, BinaryIO

from sqlmodel import Session, col, delete

from backend.batches.record import BatchRecord
from backend.batches.results import answers, failures
from backend.batches.webhooks import announce
from backend.files.catalogue import Catalogue, named
from backend.store.database import Database
from backend.store.tables.batches import Batch, BatchLine, BatchResult, BatchStatus
from backend.store.tables.files import StoredFile


class Ending:
    """Ends batches.

    Args:
        database: where they are.
        files: where their results go.
    """

    def __init__(self, database: Database, files: Catalogue) -> None:
        self._database, self._files = database, files

    def fail(self, record: BatchRecord, errors: list[dict[str, Any]]) -> None:
        """End a batch whose file cannot be run."""
        record.drop_lines()
        with self._database.session() as session:
            batch = session.get(Batch, record.batch_id)
            assert batch is not None
            if batch.status is not BatchStatus.VALIDATING:
                return  # cancelled meanwhile
            source = session.get(StoredFile, batch.source_id)
            batch.errors = errors
            self._close(session, batch, source, BatchStatus.FAILED)
        self._release(source)

    def finish(self, record: BatchRecord, source: BinaryIO) -> None:
        """Write the result files of a batch that is cancelling or finalizing, and end it.

        A kill before the commit leaves it as it was: the files are then written again, and there is one of each.

        Args:
            record: of the batch.
            source: its requests.
        """
        batch = record.read()
        if batch.in_progress_at is None:
            record.drop_lines()  # of a file of which perhaps only a part was read
        left = record.left()
        if batch.status is BatchStatus.CANCELLING:
            status, code = BatchStatus.CANCELLED, "batch_cancelled"
        elif left:
            status, code = BatchStatus.EXPIRED, "batch_expired"
        else:
            status, code = BatchStatus.COMPLETED, ""

        def read(start: int, length: int) -> bytes:
            return os.pread(source.fileno(), length, start)

        lines = {
            "output": answers(self._database, batch) if batch.completed else None,
            "error": failures(self._database, batch, code or None, read) if batch.failed or left else None,
        }
        with ExitStack() as stack:
            blobs = {
                kind: stack.enter_context(self._files.written(data, name=kind))
                for kind, data in lines.items()
                if data is not None
            }
            with self._database.session() as session:
                made = {
                    kind: named(
                        session, blob, f"{batch.id}_{kind}.jsonl", tenant=batch.tenant, purpose="batch_output",
                        seconds=batch.output_seconds,
                    ).id
                    for kind, blob in blobs.items()
                }  # fmt: skip
                for table in (BatchResult, BatchLine):
                    session.connection().execute(delete(table).where(col(table.batch_id) == batch.id))
                row = session.get(Batch, batch.id)
                assert row is not None
                held = session.get(StoredFile, row.source_id)
                row.output_file_id, row.error_file_id = made.get("output"), made.get("error")
                self._close(session, row, held, status)
        self._release(held)

    @staticmethod
    def _close(session: Session, batch: Batch, source: StoredFile | None, status: BatchStatus) -> None:
        batch.status, batch.ended_at, batch.waiting = status, time.time(), ""
        session.add(batch)
        if source is not None:
            session.delete(source)
        announce(session, batch)

    def _release(self, source: StoredFile | None) -> None:
        """Drop the file's bytes if nobody else needs them; those that a kill leaves are swept at the next start."""
        if source is not None:
            self._files.forget(source)
