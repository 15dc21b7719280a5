"""Jobs, their runs and results."""

from __future__ import annotations

import time

from sqlalchemy import JSON, Column
from sqlmodel import Field, SQLModel

from backend.store.ids import new_id


class Job(SQLModel, table=True):
    """A file of prompts to run, now or on a schedule."""

    __tablename__ = "job"
    id: str = Field(default_factory=new_id, primary_key=True)
    name: str
    prompts: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    system: str = ""
    max_tokens: int = 128
    temperature: float = 0.0
    documents: bool = False
    cron: str | None = None
    created: float = Field(default_factory=time.time)


class JobRun(SQLModel, table=True):
    """One execution of a job."""

    __tablename__ = "job_run"
    id: str = Field(default_factory=new_id, primary_key=True)
    job_id: str = Field(foreign_key="job.id", index=True, ondelete="CASCADE")
    state: str = Field(default="queued", index=True)  # queued, running, done, failed, cancelled
    total: int = 0
    reason: str = ""
    created: float = Field(default_factory=time.time)
    started: float | None = None
    finished: float | None = None


class JobResult(SQLModel, table=True):
    """The answer to one prompt of a run, written as it is finished, so that a kill loses none."""

    __tablename__ = "job_result"
    run_id: str = Field(foreign_key="job_run.id", primary_key=True, ondelete="CASCADE")
    position: int = Field(primary_key=True)
    text: str = ""
    error: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
