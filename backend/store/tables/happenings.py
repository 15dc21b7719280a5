"""What happened to the installation, for charts and for who asks why something changed."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, Column
from sqlmodel import Field, SQLModel

from backend.store.states import StateType


class HappeningKind(StrEnum):
    """What kind of thing happened."""

    SWITCHES = "switches"
    """Somebody changed switches."""
    LOADED = "loaded"
    """Other weights serve."""
    REFUSED = "refused"
    """Switches or weights could not be put in force."""
    CRASH = "crash"
    """The engine died, or hung and was ended."""
    MEASURED = "measured"
    """A switch goes on and off to be measured, or that ended."""
    READY = "ready"
    """The engine serves again."""
    BUDGET = "budget"
    """A budget is nearly or wholly spent."""
    UNSTORED = "unstored"
    """Entries of the ledger could not be stored."""


class Happening(SQLModel, table=True):
    """One thing that happened, with the words that a reader is told it in."""

    __tablename__ = "happening"
    id: int | None = Field(default=None, primary_key=True)
    time: float = Field(index=True)
    kind: HappeningKind = Field(sa_column=Column(StateType(HappeningKind), nullable=False))
    text: str
    who: str = ""
    details: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
