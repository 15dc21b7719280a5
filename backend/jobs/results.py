"""The results of a run as JSON Lines, a page at a time, however many there are."""

from __future__ import annotations

import json
from collections.abc import Iterator

from sqlmodel import col, select

from backend.store.database import Database
from backend.store.tables.jobs import JobPrompt, JobResult, JobRun

PAGE = 500
"""Results that are in memory at once."""


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
