"""Changes switches, and keeps those that were put in force for the next start.

A wish is not stored: weights that fail to load, or that kill the engine, must not be what the next start begins with.
Storing happens in the background, since the switch acts whether or not the database can be written.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from backend.engine.protocol import EngineClient, Phase
from backend.engine.switches import PRESETS, InvalidSwitchError, Switches, describe
from backend.store.database import Database
from backend.store.tables import Setting

log = logging.getLogger(__name__)

KEY = "switches"
RETRY = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds between attempts to store, the last for all that follow."""


class Switchboard:
    """One per server.

    Args:
        database: where the switches in force are stored.
        engine: called per change; the engine is built with what is stored here.
    """

    def __init__(self, database: Database, engine: Callable[[], EngineClient]) -> None:
        self._database, self._engine = database, engine
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

    def change(self, changes: dict[str, Any]) -> Switches:
        """Change some switches now, and for the next start once they are in force.

        Raises:
            InvalidSwitchError: says which and what is allowed.
        """
        with self._changing:
            engine = self._engine()
            switches = engine.switches.updated(changes)
            engine.set_switches(switches)
        return switches

    def keep(self, in_force: Switches) -> None:
        """The engine says what is in force; to be called whenever it does. Never blocks."""
        with self._changed:
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
