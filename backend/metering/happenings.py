"""What happened to this installation: switches changed, weights loaded or refused, crashes. Charts mark it.

Written in the background; knows nothing of who shows it.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import insert
from sqlmodel import Session, col, select

from backend.engine.messages import SwitchesApplied
from backend.engine.protocol import EngineState, Phase
from backend.engine.switches import describe
from backend.store.database import Database
from backend.store.tables.happenings import Happening, HappeningKind

LABELS = {about["name"]: about["label"] for about in describe()}
MOST = 500


class Happenings:
    """Keeps what happened, and gives it back by time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._phase = Phase.STOPPED
        self._restarts = 0
        self._variant: str | None = None
        self._error: str | None = None

    def note(self, kind: HappeningKind, text: str, *, who: str = "", **details: Any) -> None:
        """Keep that something happened now; `text` is what a person reads of it."""
        row = {"time": time.time(), "kind": kind, "text": text, "who": who, "details": details}
        self._database.writer.submit(lambda session: _insert(session, row))

    def unstored(self, text: str) -> None:
        """Keep that entries of the ledger could not be stored."""
        self.note(HappeningKind.UNSTORED, text)

    def switched(self, before: dict[str, Any], after: dict[str, Any], *, who: str, why: str, name: str) -> None:
        """Keep that somebody changed switches.

        Args:
            before: all of them.
            after: all of them.
            who: changed them.
            why: they did, where that was said.
            name: of the preset that they are now; empty where they are none.
        """
        changes = {key: [before[key], value] for key, value in after.items() if before[key] != value}
        if not changes:
            return
        said = [f"{LABELS[key]}: {_word(old)} → {_word(new)}" for key, (old, new) in changes.items()]
        listed = "; ".join(said[:3]) + (f" and {len(said) - 3} more" if len(said) > 3 else "")
        text = f"Preset {name}" if name else listed
        self.note(HappeningKind.SWITCHES, text, who=who, why=why, changes=changes)

    def engine_said(self, said: EngineState | SwitchesApplied) -> None:
        """The engine entered another phase, or answered to a change of switches. For its reading thread."""
        if isinstance(said, SwitchesApplied):
            self._applied(said)
            return
        if said.phase is Phase.RESTARTING and self._phase is not Phase.RESTARTING:
            self.note(HappeningKind.CRASH, said.detail or "The engine stopped.")
        elif said.phase is Phase.FAILED:
            self.note(HappeningKind.CRASH, f"The model cannot be loaded: {said.detail}")
        elif said.phase is Phase.READY and said.restarts > 0:
            self.note(HappeningKind.READY, "The engine serves again.", restarts=said.restarts)
        self._phase = said.phase

    def _applied(self, said: SwitchesApplied) -> None:
        if said.error and said.error != self._error:
            self.note(HappeningKind.REFUSED, said.error)
        self._error = said.error
        if self._variant is not None and said.variant != self._variant:
            self.note(HappeningKind.LOADED, f"Weights: {self._variant} → {said.variant}")
        self._variant = said.variant

    def between(self, since: float, until: float, kinds: tuple[HappeningKind, ...] = ()) -> list[Happening]:
        """What happened in that time (seconds since the epoch), the latest first, at most 500."""
        query = select(Happening).where(Happening.time >= since, Happening.time < until)
        if kinds:
            query = query.where(col(Happening.kind).in_(kinds))
        with self._database.session() as session:
            found = session.exec(query.order_by(col(Happening.time).desc(), col(Happening.id).desc()).limit(MOST)).all()
            session.expunge_all()
            return list(found)


def _word(value: Any) -> str:
    return {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _insert(session: Session, row: dict[str, Any]) -> None:
    session.connection().execute(insert(Happening), [row])
