"""Answers that are given again."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import JSON, Column, LargeBinary
from sqlmodel import Field, SQLModel


class Answer(SQLModel, table=True):
    """An answer that is given again: by the exact prompt and parameters, or, where asked for, by a like question."""

    __tablename__ = "answer"
    key: str = Field(primary_key=True)
    scope: str = Field(default="", index=True)  # what a like question must have in common; empty: exact only
    question: str = ""
    vector: bytes | None = Field(default=None, sa_column=Column(LargeBinary))
    token_ids: list[int] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    finish_reason: str = "stop"
    citations: list[dict[str, Any]] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    prompt_tokens: int = 0
    compute_seconds: float = 0.0
    hits: int = 0
    created: float = Field(default_factory=time.time)
    used: float = Field(default_factory=time.time, index=True)
