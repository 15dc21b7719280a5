"""Columns of states: a `StrEnum` in the program, its word in the database."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import Dialect, TypeDecorator
from sqlmodel import AutoString


class StateType(TypeDecorator[StrEnum]):
    """A column of one of the states of a `StrEnum`, kept as its word."""

    impl = AutoString
    cache_ok = True

    def __init__(self, states: type[StrEnum]) -> None:
        super().__init__()
        self.states = states

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """To the database."""
        return None if value is None else str(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> StrEnum | None:
        """From the database."""
        return None if value is None else self.states(value)
