"""Changes switches, and keeps those that were put in force for the next start.

A wish is not stored: weights that fail to load, or that kill the engine, must not be what the next start begins with.
Storing happens in the background, since the switch acts whether or not the database can be written.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from backend.engine.protocol import EngineClient, Phase
from backend.engine.switches import InvalidSwitchError, Switches, describe
from backend.metering.happenings import Happenings
from backend.store.database import Database
from backend.store.tables.settings import Setting
from backend.switchboard.presets import PRESETS, preset_of

log = logging.getLogger(__name__)

KEY = "switches"
RETRY = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds between attempts to store, the last for all that follow."""


class BorrowOverError(Exception):
    """Somebody changed the switches while they were borrowed: theirs are in force, and stay."""


class Switchboard:
    """One per server.

    Args:
        database: where the switches in force are stored.
        engine: called per change; the engine is built with what is stored here.
        happenings: told of each change.
    """

    def __init__(self, database: Database, engine: Callable[[], EngineClient], happenings: Happenings) -> None:
        self._database, self._engine, self._happenings = database, engine, happenings
        self._borrower: object | None = None
        self._lent_over: Switches | None = None  # those of before, while switches are lent or on their way back
        self._changing = threading.Lock()
        self._changed = threading.Condition()
        self._in_force: Switches | None = None  # None: the engine has not said anything yet
        self._stored = self._read()
        self._closing = False
        self._writer = threading.Thread(target=self._write, name="switchboard", daemon=True)
        self._writer.start()

    @property
    def stored(self) -> Switches:
        """What the next start begins with."""
        return self._stored

    @property
    def presets(self) -> dict[str, Switches]:
        """Ready states, by name."""
        return PRESETS

    @property
    def about(self) -> list[dict[str, Any]]:
        """What there is to switch; see `engine.switches.describe`."""
        return describe()

    def _read(self) -> Switches:
        with self._database.session() as session:
            row = session.get(Setting, KEY)
        try:
            return Switches().updated(row.value) if row else Switches()
        except InvalidSwitchError:  # written by another version
            log.warning("the stored switches are not understood; the defaults are used")
            return Switches()

    def change(self, changes: dict[str, Any], *, who: str = "", why: str = "") -> Switches:
        """Change some switches now, and for the next start once they are in force.

        Ends a borrowing: who changes switches wants to see them in force.

        Args:
            changes: new values by name.
            who: wants it, for the record.
            why: the same.

        Raises:
            InvalidSwitchError: says which and what is allowed.
        """
        with self._changing:
            engine = self._engine()
            before = self._own(engine)
            switches = before.updated(changes)
            self._borrower = None
            with self._changed:
                if self._lent_over is not None:
                    self._lent_over = switches
            engine.set_switches(switches)
        name = preset_of(switches) or ""
        self._happenings.switched(before.as_dict(), switches.as_dict(), who=who, why=why, name=name)
        return switches

    @contextmanager
    def borrow(self) -> Iterator[Callable[[Switches], None]]:
        """Lend the engine to a measurement, which gives it other switches by calling what this yields.

        They are stored nowhere, and those of before are asked for again at the end. What is yielded raises
        `BorrowOverError` once somebody else has changed switches, or has borrowed them.
        """
        borrower = object()
        with self._changing:
            own = self._own(self._engine())
            with self._changed:
                self._borrower, self._lent_over = borrower, own

        def lend(switches: Switches) -> None:
            with self._changing:
                if self._borrower is not borrower:
                    raise BorrowOverError("The switches were changed meanwhile.")
                self._engine().set_switches(switches)

        try:
            yield lend
        finally:
            with self._changing:
                if self._borrower is borrower:
                    self._borrower = None
                    self._engine().set_switches(own)

    @property
    def own(self) -> Switches:
        """The switches asked for; while they are borrowed, those that come back."""
        with self._changing:
            return self._own(self._engine())

    @property
    def borrowed(self) -> bool:
        """Whether a measurement has other switches in force."""
        return self._borrower is not None

    def _own(self, engine: EngineClient) -> Switches:
        lent_over = self._lent_over
        return lent_over if self._borrower is not None and lent_over is not None else engine.switches

    def keep(self, in_force: Switches) -> None:
        """The engine says what is in force; to be called whenever it does. Never blocks."""
        with self._changed:
            if self._lent_over is not None:
                if self._borrower is not None or in_force != self._engine().switches:
                    return  # lent, or on their way back
                self._lent_over = None
            self._in_force = in_force
            self._changed.notify_all()

    def settled(self, timeout: float) -> bool:
        """Wait until what was asked for is in force and stored, or weights are being loaded for it.

        Returns whether it is stored; False after `timeout` seconds, and at once where no engine could answer.
        """
        engine = self._engine()

        def stored() -> bool:
            return engine.switches == self._stored

        def nothing_comes() -> bool:
            applied = engine.applied
            return engine.state.phase is not Phase.READY or (applied is not None and applied.loading is not None)

        with self._changed:
            self._changed.wait_for(lambda: stored() or nothing_comes(), timeout)
            return stored()

    def close(self, timeout: float = 5.0) -> None:
        """Store what is not stored yet, within `timeout` seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._writer.join(timeout)

    def _write(self) -> None:
        failures = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._unwritten() is not None)
                switches = self._unwritten()
            if switches is None:
                return
            try:
                with self._database.session() as session:
                    session.merge(Setting(key=KEY, value=switches.as_dict()))
            except Exception:
                log.exception("the switches in force could not be stored")
                with self._changed:
                    if self._closing:
                        return
                    self._changed.wait_for(lambda: self._closing, RETRY[min(failures, len(RETRY) - 1)])
                failures += 1
                continue
            failures = 0
            with self._changed:
                self._stored = switches
                self._changed.notify_all()

    def _unwritten(self) -> Switches | None:
        return self._in_force if self._in_force not in (None, self._stored) else None
