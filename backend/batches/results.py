"""The result files of a batch: a line for each request, as OpenAI writes them, and the files that they make up."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sqlmodel import and_, col, or_, select

from backend.batches.line import Answered, read_line
from backend.batches.record import Result
from backend.errors import TenfoldError, error_body
from backend.store.database import Database
from backend.store.tables.batches import Batch, BatchLine, BatchResult

PAGE = 200
"""Results that are in memory at once."""

NEVER_RUN = {
    "batch_expired": "This request could not be executed before the completion window expired.",
    "batch_cancelled": "This request was not executed, since the batch was cancelled.",
}
"""Why a request was not run, by its code."""


def request_name(batch: Batch, number: int) -> str:
    """What a request of a batch is called in its result and in the ledger."""
    return f"batch_req_{batch.id.removeprefix('batch_')}-{number}"


def result_of(batch: Batch, number: int, custom_id: str, outcome: Answered | TenfoldError) -> Result:
    """What a request that was run became."""
    failed = isinstance(outcome, TenfoldError)
    body: Mapping[str, Any] = error_body(outcome) if isinstance(outcome, TenfoldError) else outcome.body
    name = request_name(batch, number)
    response = {"status_code": getattr(outcome, "status", 200), "request_id": name, "body": body}
    text = _written({"id": name, "custom_id": custom_id, "response": response, "error": None})
    usage: Mapping[str, Any] = {} if failed else body.get("usage") or {}
    return Result(
        number, failed, text, input_tokens=usage.get("prompt_tokens", 0),
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
        output_tokens=usage.get("completion_tokens", 0), cost=getattr(outcome, "cost", 0.0),
    )  # fmt: skip


def never_run(batch: Batch, number: int, custom_id: str, code: str) -> str:
    """The line of a request that was not run."""
    error = {"code": code, "message": NEVER_RUN[code]}
    return _written({"id": request_name(batch, number), "custom_id": custom_id, "response": None, "error": error})


def _written(line: dict[str, Any]) -> str:
    text = json.dumps(line, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # what a message quotes of a request may be no text
        return json.dumps(line)
    return text


def answers(database: Database, batch: Batch) -> Iterator[bytes]:
    """The lines of the output file, in the order of the requests."""
    yield from _lines(database, batch, failed=False)


def failures(
    database: Database, batch: Batch, code: str | None, read: Callable[[int, int], bytes]
) -> Iterator[bytes]:
    """The lines of the error file, in the order of the requests.

    Args:
        database: where the results are.
        batch: whose.
        code: of those that were not run; None: all were.
        read: gives some bytes of the batch's file: (first, how many).
    """
    if code is None:
        yield from _lines(database, batch, failed=True)
        return
    same = and_(col(BatchResult.batch_id) == batch.id, col(BatchResult.number) == col(BatchLine.number))
    after = 0
    while True:
        query = (
            select(BatchLine, BatchResult.text)
            .outerjoin(BatchResult, same)
            .where(
                BatchLine.batch_id == batch.id, BatchLine.number > after,
                or_(col(BatchResult.number).is_(None), col(BatchResult.failed).is_(True)),
            )
            .order_by(col(BatchLine.number))
            .limit(PAGE)
        )  # fmt: skip
        with database.session() as session:
            rows = session.exec(query).all()
        if not rows:
            return
        after = rows[-1][0].number
        for line, text in rows:
            if text is None:  # never run
                custom_id = read_line(read(line.start, line.length))["custom_id"]
                text = never_run(batch, line.number, custom_id, code)
            yield f"{text}\n".encode()


def _lines(database: Database, batch: Batch, *, failed: bool) -> Iterator[bytes]:
    after = 0
    while True:
        query = (
            select(BatchResult.number, BatchResult.text)
            .where(BatchResult.batch_id == batch.id, BatchResult.failed == failed, BatchResult.number > after)
            .order_by(col(BatchResult.number))
            .limit(PAGE)
        )
        with database.session() as session:
            rows = session.exec(query).all()
        if not rows:
            return
        after = rows[-1][0]
        yield "".join(f"{text}\n" for _, text in rows).encode()
