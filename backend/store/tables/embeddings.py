"""Vectors that are never computed twice."""

from __future__ import annotations

import time

from sqlalchemy import Column, LargeBinary
from sqlmodel import Field, SQLModel


class Embedding(SQLModel, table=True):
    """A vector by the key of everything that determines it; float32, little endian."""

    __tablename__ = "embedding"
    key: str = Field(primary_key=True)
    model: str = Field(index=True)
    dimension: int
    vector: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    tokens: int = 0
    hits: int = 0
    created: float = Field(default_factory=time.time)
