"""Jobs, their prompts, runs and results."""

from __future__ import annotations

import time
from enum import StrEnum

from sqlalchemy import Column, Index, text
from sqlmodel import Field, SQLModel

from backend.store.ids import new_id
from backend.store.states import StateType


class Job(SQLModel, table=True):
    """Prompts to run, now or on a schedule; the prompts themselves are rows of their own.

    `key_id` is of the key that made it: its scheduled runs are that key's.
    """

    __tablename__ = "job"
    id: str = Field(default_factory=new_id, primary_key=True)
    name: str
    total: int = 0  # prompts
    system: str = ""
    max_tokens: int = 128
    temperature: float = 0.0
    documents: bool = False
    cron: str | None = None
    next_run: float | None = Field(default=None, index=True)  # when the schedule fires next
    note: str = ""  # what became of the latest firing, where it began no run
    key_id: str = ""
    created: float = Field(default_factory=time.time)


class JobPrompt(SQLModel, table=True):
    """One prompt of a job."""

    __tablename__ = "job_prompt"
    job_id: str = Field(foreign_key="job.id", primary_key=True, ondelete="CASCADE")
    position: int = Field(primary_key=True)
    text: str


class RunState(StrEnum):
    """How far a run is; the first three are open, and go on by themselves."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    """For the engine, which is not there, or for a budget that is used up: it costs the run nothing but time."""
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobRun(SQLModel, table=True):
    """One execution of a job. What it counts is written together with the results that are counted.

    A job has one open run at most, and an open run is driven by one process at most: its holder, which says again and
    again that it lives. `key_id` is of the key that began it, whose limits hold for it and who pays.
    """

    __tablename__ = "job_run"
    __table_args__ = (
        Index(
            "uq_job_run_open", "job_id", unique=True, sqlite_where=text("finished IS NULL"),
            postgresql_where=text("finished IS NULL"),
        ),
    )  # fmt: skip
    id: str = Field(default_factory=new_id, primary_key=True)
    job_id: str = Field(foreign_key="job.id", index=True, ondelete="CASCADE")
    state: RunState = Field(
        default=RunState.QUEUED, sa_column=Column(StateType(RunState), nullable=False, index=True)
    )
    total: int = 0
    done: int = 0  # prompts that have a result, be it an error
    failed: int = 0
    cost: float = 0.0
    output_tokens: int = 0
    reason: str = ""  # why it failed, or what it waits for
    key_id: str = ""
    holder: str = ""
    heard: float = 0.0  # from its holder
    created: float = Field(default_factory=time.time)
    started: float | None = None
    finished: float | None = None  # null while it is open

    @property
    def open(self) -> bool:
        """Whether it has not ended."""
        return self.finished is None


class JobResult(SQLModel, table=True):
    """The answer to one prompt of a run; those that are finished together are written together."""

    __tablename__ = "job_result"
    run_id: str = Field(foreign_key="job_run.id", primary_key=True, ondelete="CASCADE")
    position: int = Field(primary_key=True)
    text: str = ""
    error: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
