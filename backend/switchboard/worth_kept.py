"""What was found out about each switch on this machine's own traffic, as it is kept: the latest of each."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from backend.store.database import Database
from backend.store.tables.settings import Setting
from backend.switchboard.worth import Effect, Measure, Verdict

KEY = "switch_worth"


@dataclass(frozen=True, slots=True)
class Worth:
    """What a switch was measured to be worth.

    Attributes:
        measure: that decided.
        when: seconds since the epoch.
        fingerprint, device: of the model and machine; other ones say nothing of these.
        variant: how the weights were held.
        minutes: that it took.
        seed: of the order of blocks.
        requests_with, requests_without: that were compared.
        effects: by measure, where there were requests that tell.
        noise: how far two blocks that were the same lay apart (a deviation, as a share); None where that is not known.
        more_minutes: that would decide it at this rate; None where it is decided or nobody can tell.
        note: what to know of it.
    """

    switch: str
    verdict: Verdict
    measure: Measure
    when: float
    fingerprint: str
    device: str
    variant: str
    minutes: float
    seed: int
    requests_with: int
    requests_without: int
    effects: dict[Measure, Effect]
    noise: float | None
    more_minutes: float | None
    note: str


class WorthStore:
    """Keeps the latest of each switch, model and machine."""

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.session() as session:
            row = session.get(Setting, KEY)
            stored: list[dict[str, Any]] = list(row.value) if row is not None else []
        self._kept = {_place(one): one for one in map(_read, stored)}

    def all(self, fingerprint: str, device: str) -> dict[str, Worth]:
        """By switch, what was measured with this model on this machine."""
        here = (fingerprint, device)
        return {one.switch: one for one in self._kept.values() if (one.fingerprint, one.device) == here}

    def keep(self, worth: Worth) -> None:
        """Store a result in place of the switch's former one."""
        self._kept = {**self._kept, _place(worth): worth}
        with self._database.session() as session:
            session.merge(Setting(key=KEY, value=[asdict(one) for one in self._kept.values()]))


def _place(worth: Worth) -> tuple[str, str, str]:
    return worth.switch, worth.fingerprint, worth.device


def _read(value: dict[str, Any]) -> Worth:
    effects = {Measure(name): Effect(**effect) for name, effect in value["effects"].items()}
    return Worth(
        **{**value, "effects": effects, "verdict": Verdict(value["verdict"]), "measure": Measure(value["measure"])}
    )
