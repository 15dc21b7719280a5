"""What every request took."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, Column, Index
from sqlmodel import Field, SQLModel

from backend.store.states import StateType


class UsageKind(StrEnum):
    """What was asked of a model."""

    GENERATE = "generate"
    EMBED = "embed"


class Outcome(StrEnum):
    """How a request ended."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"
    CACHED = "cached"
    """A stored answer was given again."""
    REPLY = "reply"
    """The model was not asked."""


class Usage(SQLModel, table=True):
    """The ledger: one row per request that reached a model, whoever sent it."""

    __tablename__ = "usage"
    __table_args__ = (
        Index("ix_usage_finished_source", "finished", "source"),
        Index("ix_usage_kind_finished", "kind", "finished"),
    )
    id: int | None = Field(default=None, primary_key=True)
    request_id: str = Field(index=True)
    source: str  # console, api, job, lab
    kind: UsageKind = Field(
        default=UsageKind.GENERATE, sa_column=Column(StateType(UsageKind), nullable=False)
    )
    path: str = "realtime"
    model: str = ""
    variant: str = ""
    outcome: Outcome = Field(sa_column=Column(StateType(Outcome), nullable=False))
    arrived: float
    finished: float
    queue_seconds: float = 0.0
    ttft: float | None = None
    latency: float = 0.0
    tpot: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    compute_seconds: float = 0.0
    price_per_hour: float = 0.0
    cost: float = 0.0
    saved: float = 0.0
    switches: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
