"""The results of a run, a page at a time, however many there are: as JSON Lines, and as rows that are searched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import ColumnElement
from sqlmodel import col, func, or_, select

from backend.store.database import Database
from backend.store.tables.jobs import JobPrompt, JobResult, JobRun

PAGE = 500
"""Results that are in memory at once."""


@dataclass(frozen=True, slots=True)
class ResultRow:
    """A prompt and what became of it.

    Attributes:
        position: among the prompts, from 0.
        error: why there is no answer; empty where there is one.
        finish_reason: "stop", or "length" for an answer that was cut.
        cost: US dollars.
    """

    position: int
    prompt: str
    answer: str
    error: str
    finish_reason: str
    output_tokens: int
    cost: float


@dataclass(frozen=True, slots=True)
class ResultTable:
    """Some rows, and how many there are that were looked for."""

    rows: list[ResultRow]
    total: int


def result_table(
    database: Database, run: JobRun, *, contains: str = "", failed: bool = False, offset: int = 0, limit: int = 100
) -> ResultTable:
    """Results with what failed first, then in the order of the prompts.

    Args:
        database: where they are.
        run: whose they are.
        contains: what prompt, answer or error contain, whatever its case.
        failed: only what failed.
        offset: how many to leave out.
        limit: how many to give.
    """
    wanted: list[ColumnElement[bool]] = [col(JobResult.run_id) == run.id, col(JobPrompt.job_id) == run.job_id]
    if contains.strip():
        fields = (JobPrompt.text, JobResult.text, JobResult.error)
        wanted.append(or_(*(col(field).icontains(contains.strip(), autoescape=True) for field in fields)))
    if failed:
        wanted.append(col(JobResult.error) != "")
    together = col(JobPrompt.position) == col(JobResult.position)
    found = select(JobResult, JobPrompt.text).join(JobPrompt, together).where(*wanted)
    found = found.order_by(col(JobResult.error) == "", col(JobResult.position)).offset(offset).limit(limit)
    with database.session() as session:
        total = session.exec(select(func.count()).select_from(JobResult).join(JobPrompt, together).where(*wanted)).one()
        rows = session.exec(found).all()
    return ResultTable([_row(result, prompt) for result, prompt in rows], total)


def _row(result: JobResult, prompt: str) -> ResultRow:
    return ResultRow(
        result.position, prompt, result.text, result.error, result.finish_reason, result.output_tokens, result.cost
    )


def result_pages(database: Database, run: JobRun) -> Iterator[list[str]]:
    """Lines of what is finished so far, in the order of the prompts."""
    after = -1
    while True:
        query = (
            select(JobResult, JobPrompt.text)
            .join(JobPrompt, col(JobPrompt.position) == col(JobResult.position))
            .where(JobResult.run_id == run.id, JobPrompt.job_id == run.job_id, JobResult.position > after)
            .order_by(col(JobResult.position))
            .limit(PAGE)
        )
        with database.session() as session:
            rows = session.exec(query).all()
        if not rows:
            return
        after = rows[-1][0].position
        yield [_line(result, prompt) for result, prompt in rows]


def _line(result: JobResult, prompt: str) -> str:
    record = {
        "index": result.position,
        "prompt": prompt,
        "response": result.text or None,
        "error": result.error or None,
        "finish_reason": result.finish_reason or None,
        "usage": {"prompt_tokens": result.prompt_tokens, "completion_tokens": result.output_tokens},
        "cost": result.cost,
    }
    return json.dumps(record, ensure_ascii=False) + "\n"
