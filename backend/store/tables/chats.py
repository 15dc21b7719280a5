"""Conversations and their turns: a tree, of which one branch is shown."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, Column, Index
from sqlmodel import Field, SQLModel

from backend.store.ids import new_id
from backend.store.states import StateType


class Speaker(StrEnum):
    """Whose turn a message is."""

    USER = "user"
    ASSISTANT = "assistant"


class MessageState(StrEnum):
    """How far a message is; a question is done at once."""

    WRITING = "writing"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


class Conversation(SQLModel, table=True):
    """A chat. `leaf` is the last message of the branch that is shown; `settings` are how it is answered."""

    __tablename__ = "conversation"
    id: str = Field(default_factory=new_id, primary_key=True)
    title: str = "New conversation"
    tenant: str = Field(default="", index=True)  # whose it is
    leaf: str = ""
    settings: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    created: float = Field(default_factory=time.time)
    updated: float = Field(default_factory=time.time, index=True)


class Message(SQLModel, table=True):
    """One turn of a chat. `details` holds citations, metrics and settings of an answer.

    `position` counts the messages of a conversation as they came, on whichever branch; `parent_id` is the one that it
    follows, None for a first question. Both stay within a conversation, which messages are deleted with.
    """

    __tablename__ = "message"
    __table_args__ = (Index("uq_message_place", "conversation_id", "position", unique=True),)
    id: str = Field(default_factory=new_id, primary_key=True)
    conversation_id: str = Field(foreign_key="conversation.id", index=True, ondelete="CASCADE")
    parent_id: str | None = None
    position: int
    role: Speaker = Field(sa_column=Column(StateType(Speaker), nullable=False))
    text: str = ""
    state: MessageState = Field(
        default=MessageState.DONE, sa_column=Column(StateType(MessageState), nullable=False)
    )
    error: str = ""
    details: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    created: float = Field(default_factory=time.time)


class CutAnswer(SQLModel, table=True):
    """What it takes to write an answer on that was cut: its prompt and what was written of it, to the token.

    `tokens` are int64, of which the last `written` are the answer's; they mean something to the model of that
    `fingerprint` alone. `text` is the answer with the white space at its end.
    """

    __tablename__ = "cut_answer"
    message_id: str = Field(foreign_key="message.id", primary_key=True, ondelete="CASCADE")
    fingerprint: str
    tokens: bytes
    written: int
    text: str
