"""Conversations and their turns."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import JSON, Column, Index
from sqlmodel import Field, SQLModel

from backend.store.ids import new_id


class Conversation(SQLModel, table=True):
    """A chat."""

    __tablename__ = "conversation"
    id: str = Field(default_factory=new_id, primary_key=True)
    title: str = "New conversation"
    tenant: str = Field(default="", index=True)  # whose it is
    created: float = Field(default_factory=time.time)
    updated: float = Field(default_factory=time.time, index=True)


class Message(SQLModel, table=True):
    """One turn of a chat. `details` holds citations, metrics and settings of an answer."""

    __tablename__ = "message"
    __table_args__ = (Index("uq_message_place", "conversation_id", "position", unique=True),)
    id: str = Field(default_factory=new_id, primary_key=True)
    conversation_id: str = Field(foreign_key="conversation.id", index=True, ondelete="CASCADE")
    position: int
    role: str
    text: str = ""
    state: str = "done"  # done, writing, stopped, failed
    error: str = ""
    details: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    created: float = Field(default_factory=time.time)
