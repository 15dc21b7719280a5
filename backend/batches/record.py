"""One batch in the database, as the thread that drives it reads and writes it. Knows nothing of models and threads.

A database has one server (see `store.folder`), and that drives a batch with one thread: nobody else writes results.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlmodel import and_, col, delete, func, insert, select, tuple_, update

from backend.batches.line import Line
from backend.store.database import Database
from backend.store.tables.batches import Batch, BatchLine, BatchResult, BatchStatus

TOGETHER = 1000
"""Lines that are written at once."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a request: its line in a result file, and what it used."""

    number: int
    failed: bool
    text: str
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0


FIRST = Line(0, 0, 0, b"")
"""Before every line."""


class BatchRecord:
    """A batch.

    Attributes:
        batch_id: of it.
    """

    def __init__(self, database: Database, batch_id: str) -> None:
        self._database, self.batch_id = database, batch_id

    def read(self) -> Batch:
        """As it is now."""
        with self._database.session() as session:
            batch = session.get(Batch, self.batch_id)
        assert batch is not None, "batches are not deleted"
        return batch

    # ---- lines ---------------------------------------------------------------------------------------------------

    def keep_lines(self, lines: Iterable[Line]) -> None:
        """Note the lines of its file in place of those that an earlier, interrupted look at it noted."""
        self.drop_lines()
        numbered = iter(lines)
        while some := list(islice(numbered, TOGETHER)):
            rows = [
                {"batch_id": self.batch_id, "number": line.number, "place": line.place, "start": line.start,
                 "length": line.length}
                for line in some
            ]  # fmt: skip
            with self._database.session() as session:
                session.connection().execute(insert(BatchLine), rows)

    def drop_lines(self) -> None:
        """Forget the lines."""
        with self._database.session() as session:
            session.connection().execute(delete(BatchLine).where(col(BatchLine.batch_id) == self.batch_id))

    def pending(self, after: Line, limit: int) -> list[Line]:
        """The next lines behind one that have no result yet, in the order in which they are best run."""
        answered = and_(
            col(BatchResult.batch_id) == self.batch_id, col(BatchResult.number) == col(BatchLine.number)
        )
        query = (
            select(BatchLine)
            .outerjoin(BatchResult, answered)
            .where(
                BatchLine.batch_id == self.batch_id, col(BatchResult.number).is_(None),
                tuple_(col(BatchLine.place), col(BatchLine.number)) > (after.place, after.number),
            )
            .order_by(col(BatchLine.place), col(BatchLine.number))
            .limit(limit)
        )  # fmt: skip
        with self._database.session() as session:
            return [Line(row.number, row.start, row.length, row.place) for row in session.exec(query)]

    def store(self, results: list[Result]) -> None:
        """Keep results and count them, all in one commit."""
        failed = sum(result.failed for result in results)
        counted = {
            name: getattr(Batch, name) + sum(getattr(result, name) for result in results)
            for name in ("input_tokens", "cached_tokens", "output_tokens", "cost")
        }
        counted |= {"completed": Batch.completed + len(results) - failed, "failed": Batch.failed + failed}
        rows = [
            {"batch_id": self.batch_id, "number": result.number, "failed": result.failed, "text": result.text}
            for result in results
        ]
        with self._database.session() as session:
            session.connection().execute(insert(BatchResult), rows)
            session.connection().execute(update(Batch).where(col(Batch.id) == self.batch_id).values(**counted))

    # ---- states --------------------------------------------------------------------------------------------------

    def enter(self, status: BatchStatus, *, after: BatchStatus, **values: Any) -> bool:
        """Go from one status to another; False where it is in a third meanwhile."""
        change = update(Batch).where(col(Batch.id) == self.batch_id, col(Batch.status) == after)
        with self._database.session() as session:
            return bool(session.connection().execute(change.values(status=status, **values)).rowcount)

    def wait_for(self, reason: str) -> None:
        """Say what it waits for; empty: it goes on."""
        change = update(Batch).where(col(Batch.id) == self.batch_id).values(waiting=reason)
        with self._database.session() as session:
            session.connection().execute(change)

    def left(self) -> int:
        """How many lines have no result."""
        with self._database.session() as session:
            lines = session.exec(
                select(func.count()).select_from(BatchLine).where(BatchLine.batch_id == self.batch_id)
            ).one()
            results = session.exec(
                select(func.count()).select_from(BatchResult).where(BatchResult.batch_id == self.batch_id)
            ).one()
        return lines - results
