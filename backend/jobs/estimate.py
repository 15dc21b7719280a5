"""What a job will take, from what earlier ones took on this machine. Knows nothing of how prompts are run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sqlmodel import col, func, select

from backend.errors import TenfoldError
from backend.store.database import Database
from backend.store.tables.jobs import Job, JobResult, JobRun

ANSWERS, RUNS = 500, 20
"""The latest of each that are learned from."""
LEAST = 2
"""Answers below which nothing is said of another job's."""
SAMPLE = 64
"""Prompts whose tokens are counted; more are reckoned from these."""


@dataclass(frozen=True, slots=True)
class Amount:
    """Tokens of all answers together, the engine's cost in US dollars, and seconds from beginning to end."""

    output_tokens: int
    cost: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a job will take.

    Attributes:
        prompt_tokens: of all prompts; None where they are not known before the passages are found.
        likely: with answers as long as earlier ones; None before the first run.
        most: with answers as long as they may be; None before the first run.
        answers: how many earlier answers this was learned from.
    """

    prompt_tokens: int | None
    likely: Amount | None = None
    most: Amount | None = None
    answers: int = 0


@dataclass(frozen=True, slots=True)
class Learned:
    """What earlier jobs of a kind took: dollars per token read and written, tokens each, seconds per dollar."""

    per_prompt_token: float
    per_output_token: float
    prompt_tokens: float
    output_tokens: float
    seconds_per_dollar: float
    answers: int


def estimate(
    database: Database, prompts: list[str], count: Callable[[str], int], *, max_tokens: int, documents: bool
) -> Estimate:
    """Reckon what prompts will take.

    Args:
        database: where earlier results are.
        prompts: all of them.
        count: the tokens of a prompt as the model is given it, without passages.
        max_tokens: longest answer.
        documents: whether passages are added, of which only earlier jobs can tell how long they are.
    """
    learned = _learn(database, documents=documents)
    read = None if documents else _counted(prompts, count)
    if documents and learned is not None:
        read = round(learned.prompt_tokens * len(prompts))
    if learned is None or read is None:
        return Estimate(read)

    def amount(each: float) -> Amount:
        written = round(each * len(prompts))
        cost = learned.per_prompt_token * read + learned.per_output_token * written
        return Amount(written, cost, cost * learned.seconds_per_dollar)

    likely = amount(min(learned.output_tokens, max_tokens))
    return Estimate(read, likely, amount(max_tokens), learned.answers)


def _counted(prompts: list[str], count: Callable[[str], int]) -> int | None:
    step = max(1, len(prompts) // SAMPLE)
    counts = []
    for prompt in prompts[::step]:
        try:
            counts.append(count(prompt))
        except TenfoldError:  # one that cannot be answered costs nothing; a model that is not there counts none
            continue
    return round(sum(counts) / len(counts) * len(prompts)) if counts else None


def _learn(database: Database, *, documents: bool) -> Learned | None:
    of_kind = (
        select(JobResult.prompt_tokens, JobResult.output_tokens, JobResult.cost)
        .join(JobRun, col(JobRun.id) == col(JobResult.run_id))
        .join(Job, col(Job.id) == col(JobRun.job_id))
        .where(JobResult.cost > 0, col(Job.documents).is_(documents))
        .order_by(col(JobRun.created).desc(), col(JobResult.position))
        .limit(ANSWERS)
    )
    latest = (
        select((JobRun.finished - JobRun.started).label("seconds"), JobRun.cost)  # type: ignore[operator, union-attr]
        .where(col(JobRun.finished).is_not(None), col(JobRun.started).is_not(None), JobRun.cost > 0)
        .order_by(col(JobRun.created).desc())
        .limit(RUNS)
        .subquery()
    )
    with database.session() as session:
        rows = session.exec(of_kind).all()
        seconds, dollars = session.exec(select(func.sum(latest.c.seconds), func.sum(latest.c.cost))).one()
    if len(rows) < LEAST or not dollars:
        return None
    read, written, cost = np.array(rows, dtype=np.float64).T
    reading, writing = _rates(read, written, cost)
    return Learned(reading, writing, read.mean(), written.mean(), seconds / dollars, len(rows))


def _rates(read: np.ndarray, written: np.ndarray, cost: np.ndarray) -> tuple[float, float]:
    """Dollars per token read and per token written that fit best, neither below nothing."""
    fit, _, rank, _ = np.linalg.lstsq(np.stack([read, written], axis=1), cost, rcond=None)
    if rank == 2 and (fit >= 0).all():
        return float(fit[0]), float(fit[1])
    if written.sum():
        return 0.0, float(cost.sum() / written.sum())
    return float(cost.sum() / read.sum()), 0.0
