"""A number that grows with everything that becomes or ceases to be findable: answers over documents are kept by it."""

from __future__ import annotations

from sqlmodel import Session

from backend.store.database import Database
from backend.store.tables.settings import Setting

KEY = "index_version"


class IndexVersion:
    """Changed by the one thread that reads documents, and read by anybody."""

    def __init__(self, database: Database) -> None:
        with database.session() as session:
            row = session.get(Setting, KEY)
        self._value = int(row.value) if row else 0

    @property
    def value(self) -> int:
        """The version in force."""
        return self._value

    def note_next(self, session: Session) -> None:
        """Store the next version with the change that brings it; `advance` once that is committed."""
        session.merge(Setting(key=KEY, value=self._value + 1))

    def advance(self) -> None:
        """The next version is in force."""
        self._value += 1
