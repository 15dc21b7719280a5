"""The price of an hour of machine: a catalogue of round figures to start from, and the user's own."""

from __future__ import annotations

import json
from dataclasses import dataclass

from backend.settings import ROOT, Settings
from backend.store.database import Database
from backend.store.tables import Setting

CATALOGUE = ROOT / "data" / "prices.json"
KEY = "machine_price"


@dataclass(frozen=True)
class MachinePrice:
    """US dollars per hour of a machine, and where the figure is from."""

    name: str
    per_hour: float


class Prices:
    """The price in force: the variable if set, else what the console chose, else the catalogue's default.

    Attributes:
        catalogue: the shipped round figures.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings, self._database = settings, database
        with database.session() as session:
            stored = session.get(Setting, KEY)
        shipped = json.loads(CATALOGUE.read_text())
        self.catalogue = [MachinePrice(row["name"], row["price_per_hour"]) for row in shipped["machines"]]
        self._chosen = next(price for price in self.catalogue if price.name == shipped["default"])
        if stored is not None:
            self._chosen = MachinePrice(**stored.value)

    @property
    def current(self) -> MachinePrice:
        """The price in force."""
        if self._settings.price_per_hour is not None:
            return MachinePrice("TENFOLD_PRICE_PER_HOUR", self._settings.price_per_hour)
        return self._chosen

    def choose(self, name: str, own: float) -> None:
        """Remember the user's choice: a machine of the catalogue, or under any other name `own` dollars per hour."""
        price = next((price for price in self.catalogue if price.name == name), MachinePrice(name, own))
        self._chosen = price
        with self._database.session() as session:
            session.merge(Setting(key=KEY, value={"name": price.name, "per_hour": price.per_hour}))
