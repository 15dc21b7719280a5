"""In the web process: which switches are asked for, which the engine was told, and which are known to work."""

from __future__ import annotations

import threading
from dataclasses import replace

from backend.engine.messages import SwitchesApplied
from backend.engine.switches import Switches

GIVEN_UP = "The engine died while changed switches were being put in force; it is back with those before."


class Switching:
    """Keeps the wish apart from what is in force, so that an engine never begins with what it may not survive.

    Args:
        switches: in force when the engine ran last.
    """

    def __init__(self, switches: Switches) -> None:
        self.asked = self.in_force = switches
        self._applied: SwitchesApplied | None = None
        self._told: Switches | None = None  # what this life of the engine was told last
        self._given_up: str | None = None
        self._unloadable: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    @property
    def applied(self) -> SwitchesApplied | None:
        """What the engine said last; its error is also that of switches it died of."""
        applied, given_up = self._applied, self._given_up
        return replace(applied, error=given_up) if applied and given_up and not applied.error else applied

    def ask(self, switches: Switches) -> None:
        """Somebody wants switches."""
        with self._lock:
            self.asked, self._given_up = switches, None

    def tell(self) -> Switches:
        """What to tell the engine now."""
        with self._lock:
            self._told = self.asked
            return self.asked

    def take(self, message: SwitchesApplied) -> Switches:
        """The engine answered; returns what is in force."""
        with self._lock:
            self._applied = message
            self._unloadable.clear()
            in_force = message.switches
            if message.loading is not None:  # these weights have not shown yet that they can be loaded
                in_force = replace(in_force, quantization=self.in_force.quantization)
            self.in_force = in_force
            if message.error is not None or message.switches == self._told:
                # What failed is asked for no more; what was told since then is taken up again by its own answer.
                self.asked = message.switches
            return in_force

    def died(self, *, by_itself: bool) -> None:
        """The engine died: were switches just being put in force, that was their doing, and it would be again.

        Not so where it was ended by somebody who wants it to begin anew.
        """
        with self._lock:
            if by_itself and self._told is not None and self._told == self.asked != self.in_force:
                self.asked, self._given_up = self.in_force, GIVEN_UP
            self._told = None

    def could_not_load(self) -> bool:
        """What was in force can no longer be loaded: begin with what is asked for, or the default weights.

        Returns False where those were tried as well.
        """
        default = Switches()
        with self._lock:
            self._unloadable.add(_weights(self.in_force))
            plain = replace(self.in_force, quantization=default.quantization, kv_cache=default.kv_cache)
            for candidate in (self.asked, plain):
                if _weights(candidate) not in self._unloadable:
                    self.in_force = candidate
                    return True
            self._unloadable.clear()
            return False


def _weights(switches: Switches) -> tuple[str, str]:
    """Of the switches, those that loading depends on."""
    return switches.quantization, switches.kv_cache
