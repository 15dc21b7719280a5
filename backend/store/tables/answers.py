"""Answers that are given again."""

from __future__ import annotations

import time

from sqlalchemy import JSON, Column, LargeBinary
from sqlmodel import AutoString, Field, SQLModel

from backend.store.citation import Citation


class Answer(SQLModel, table=True):
    """An answer that is given again: by the exact prompt and parameters, or, where asked for, by a like question."""

    __tablename__ = "answer"
    key: str = Field(primary_key=True)
    likeness_scope: str = Field(default="", sa_column=Column("scope", AutoString, nullable=False, index=True))
    """What a like question must have in common; empty: exact only."""
    question: str = ""
    vector: bytes | None = Field(default=None, sa_column=Column(LargeBinary))
    token_ids: list[int] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    finish_reason: str = "stop"
    citations: list[Citation] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    prompt_tokens: int = 0
    compute_seconds: float = 0.0
    hits: int = 0
    created: float = Field(default_factory=time.time)
    used: float = Field(default_factory=time.time, index=True)
