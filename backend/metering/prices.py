"""The price of an hour of machine: a catalogue of round figures to start from, and the user's own."""

from __future__ import annotations

import json
from dataclasses import dataclass

from backend.settings import ROOT, Settings
from backend.store.database import Database
from backend.store.tables.settings import Setting

CATALOGUE = ROOT / "data" / "prices.json"
KEY = "machine_price"


@dataclass(frozen=True)
class MachinePrice:
    """US dollars per hour of a machine, and where the figure is from."""

    name: str
    per_hour: float


def catalogue() -> list[MachinePrice]:
    """The shipped round figures."""
    rows = json.loads(CATALOGUE.read_text())["machines"]
    return [MachinePrice(row["name"], row["price_per_hour"]) for row in rows]


class Prices:
    """The price in force: the variable if set, else what the console chose, else the catalogue's default."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings, self._database = settings, database
        with database.session() as session:
            stored = session.get(Setting, KEY)
        default = json.loads(CATALOGUE.read_text())["default"]
        self._chosen = next(price for price in catalogue() if price.name == default)
        if stored is not None:
            self._chosen = MachinePrice(**stored.value)

    @property
    def current(self) -> MachinePrice:
        """The price in force."""
        if self._settings.price_per_hour is not None:
            return MachinePrice("TENFOLD_PRICE_PER_HOUR", self._settings.price_per_hour)
        return self._chosen

    def choose(self, price: MachinePrice) -> None:
        """Remember the user's choice."""
        self._chosen = price
        with self._database.session() as session:
            session.merge(Setting(key=KEY, value={"name": price.name, "per_hour": price.per_hour}))
