"""Batches of requests over a file of lines, and what became of each line while the result files are not written."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Index, LargeBinary, UniqueConstraint
from sqlmodel import Field, SQLModel

from backend.store.ids import ordered_id
from backend.store.states import StateType


class BatchStatus(StrEnum):
    """How far a batch is, in OpenAI's words; the first four are open, and go on by themselves."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    """Its file is not one that can be run."""
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class Batch(SQLModel, table=True):
    """A batch. What it counts is written together with the results that are counted. Ids sort by the time of making."""

    __tablename__ = "batch"
    __table_args__ = (UniqueConstraint("tenant", "request_key", name="uq_batch_request"),)
    id: str = Field(default_factory=lambda: f"batch_{ordered_id()}", primary_key=True)
    tenant: str = Field(index=True)  # whose it is
    key_id: str = ""  # of the key that made it, which its lines are booked to
    endpoint: str
    input_file_id: str
    input_name: str  # of that file, for people
    source_id: str  # the reference to the file's bytes that is the batch's own
    completion_window: str
    status: BatchStatus = Field(
        default=BatchStatus.VALIDATING, sa_column=Column(StateType(BatchStatus), nullable=False, index=True)
    )
    total: int = 0
    completed: int = 0
    failed: int = 0
    input_tokens: int = Field(default=0, sa_type=BigInteger)
    cached_tokens: int = Field(default=0, sa_type=BigInteger)
    output_tokens: int = Field(default=0, sa_type=BigInteger)
    cost: float = 0.0
    model: str = ""
    waiting: str = ""  # what it waits for; empty while it goes on
    errors: list[dict[str, Any]] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    tags: dict[str, str] | None = Field(default=None, sa_column=Column(JSON))  # the request's metadata
    output_seconds: int | None = None  # after which its result files expire
    output_file_id: str | None = None
    error_file_id: str | None = None
    request_key: str | None = None  # by which a request that is sent again is known
    request_digest: str = Field(default="", index=True)  # of what was asked for
    created: float = Field(default_factory=time.time)
    expires: float
    in_progress_at: float | None = None
    finalizing_at: float | None = None
    cancelling_at: float | None = None
    ended_at: float | None = None

    @property
    def open(self) -> bool:
        """Whether it has not ended."""
        return self.ended_at is None


class BatchLine(SQLModel, table=True):
    """Where in its file a request is. `place` sorts requests that begin alike next to each other."""

    __tablename__ = "batch_line"
    __table_args__ = (Index("ix_batch_line_place", "batch_id", "place", "number"),)
    batch_id: str = Field(foreign_key="batch.id", primary_key=True, ondelete="CASCADE")
    number: int = Field(primary_key=True)  # from 1, as editors count
    place: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    start: int = Field(sa_type=BigInteger)  # bytes
    length: int = Field(sa_type=BigInteger)


class BatchResult(SQLModel, table=True):
    """The line of a result file that a request became."""

    __tablename__ = "batch_result"
    batch_id: str = Field(foreign_key="batch.id", primary_key=True, ondelete="CASCADE")
    number: int = Field(primary_key=True)
    failed: bool
    text: str
