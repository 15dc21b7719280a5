"""The price of an hour of machine: the user's own, one of the catalogue, or one of a list that the user brought.

Every price that was in force is a version with an id: it is never changed, and entries of the ledger name it. No figure
without where it is from, and the day on which it was read.
"""

from __future__ import annotations

import datetime
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from sqlmodel import col, select

from backend.errors import InvalidInputError
from backend.metering.entry import DOLLAR
from backend.metering.offers import Offer
from backend.settings import ROOT, Settings
from backend.store.database import Database
from backend.store.tables.settings import Setting
from backend.store.tables.usage import PriceVersion

CATALOGUE = ROOT / "data" / "prices.json"
KEY, IMPORTED = "machine_price", "machine_offers"
OWN = "My own price"
OLD_DAYS = 90
"""Days after which a figure should be read again."""
HOURS_A_YEAR = 365.25 * 24


@dataclass(frozen=True)
class MachinePrice:
    """US dollars per hour of a machine, and where the figure is from.

    Attributes:
        name, provider: of the machine.
        per_hour: US dollars.
        source: the list that the figure is from, or what it was worked out of.
        read: the day on which it was read, ISO 8601; empty where no list was.
        gpu: which it has, as its driver names it in part; empty for none.
        id: of the version in force; 0 for one that never was.
        basis: what an own price was worked out of.
    """

    name: str
    per_hour: float
    provider: str = ""
    source: str = ""
    read: str = ""
    gpu: str = ""
    id: int = field(default=0, compare=False)
    basis: dict[str, float] = field(default_factory=dict, compare=False)

    @property
    def nano_per_hour(self) -> int:
        """Nano-dollars, as money is counted in."""
        return int(Decimal(str(self.per_hour)) * DOLLAR)

    def warning(self, today: datetime.date | None = None) -> str:
        """What is to be said of the figure's age; empty where it is recent, or the user's own."""
        if not self.read:
            return "" if self.name == OWN else "A round figure to start from: set what you pay."
        age = ((today or datetime.date.today()) - datetime.date.fromisoformat(self.read)).days
        return f"Read {age} days ago, on {self.read}: look at the list again." if age > OLD_DAYS else ""


def own_per_hour(*, purchase: float, years: float, watts: float, per_kwh: float) -> float:
    """US dollars per hour of a machine of one's own that is never switched off.

    Args:
        purchase: US dollars that it cost.
        years: that it will be used.
        watts: that it draws, on average.
        per_kwh: US dollars of a kilowatt hour.

    Raises:
        InvalidInputError: no time to use it in, or a figure below 0.
    """
    if years <= 0 or min(purchase, watts, per_kwh) < 0:
        raise InvalidInputError("A machine needs a time to be used in, and figures that are not below 0.")
    return purchase / (years * HOURS_A_YEAR) + watts / 1000 * per_kwh


def catalogue() -> tuple[list[MachinePrice], str]:
    """The shipped machines, and the name of the one that counts until another is chosen."""
    shipped = json.loads(CATALOGUE.read_text())
    rows = shipped["machines"]
    return [MachinePrice(**{**row, "read": row["read"] or ""}) for row in rows], shipped["default"]


class Prices:
    """The price in force: the variable if set, else what the console chose, else the catalogue's default.

    Attributes:
        catalogue: the shipped machines.
        imported: what the user brought.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self._database, self._lock = database, threading.Lock()
        self._changed: list[Callable[[MachinePrice], None]] = []
        self.catalogue, default = catalogue()
        with database.session() as session:
            stored, offers = session.get(Setting, KEY), session.get(Setting, IMPORTED)
        self.imported = [MachinePrice(**offer) for offer in offers.value["offers"]] if offers else []
        chosen = next(price for price in self.catalogue if price.name == default)
        if settings.price_per_hour is not None:
            chosen = MachinePrice("TENFOLD_PRICE_PER_HOUR", settings.price_per_hour, source="set for this server")
        elif stored is not None:
            known = {price.name: price for price in [*self.imported, *self.catalogue]}
            name, per_hour = stored.value["name"], stored.value["per_hour"]
            chosen = known.get(name, _own(name, per_hour, stored.value.get("basis")))
            if chosen.per_hour != per_hour:  # the shipped figure is another now; what was chosen stays
                chosen = _own(name, per_hour, stored.value.get("basis"))
        self._fixed = settings.price_per_hour is not None
        self._current = self._version(chosen)

    @property
    def current(self) -> MachinePrice:
        """The price in force, under its version's id."""
        return self._current

    def on_change(self, follow: Callable[[MachinePrice], None]) -> None:
        """Have a function called with each price that comes into force."""
        self._changed.append(follow)

    def choose(self, name: str, own: float = 0.0, *, basis: dict[str, float] | None = None) -> None:
        """Put a price in force and remember it: of a machine that is known, or the user's own.

        Args:
            name: of a machine of the catalogue or of what was imported; any other is the user's own.
            own: US dollars per hour of the user's own.
            basis: the arguments of `own_per_hour` that it was worked out of.
        """
        known = {price.name: price for price in [*self.catalogue, *self.imported]}
        price = known.get(name) or _own(name, own, basis)
        with self._database.session() as session:
            value = {"name": price.name, "per_hour": price.per_hour, "basis": price.basis}
            session.merge(Setting(key=KEY, value=value))
        if self._fixed:  # the variable goes on saying what counts
            return
        with self._lock:
            self._current = self._version(price)
            for follow in self._changed:
                follow(self._current)

    def bring(self, offers: list[Offer], provider: str, day: datetime.date) -> list[MachinePrice]:
        """Keep machines of a list that the user brought, in place of those brought before; see `offers.read_offers`."""
        self.imported = [
            MachinePrice(
                f"{provider} {offer.instance}" + (f", {offer.region}" if offer.region else ""), offer.per_hour,
                provider=provider, source=f"imported list of {provider}", read=day.isoformat(), gpu=offer.accelerator,
            )
            for offer in offers
        ]  # fmt: skip
        rows = [_plain(price) for price in self.imported]
        with self._database.session() as session:
            session.merge(Setting(key=IMPORTED, value={"offers": rows}))
        return self.imported

    def suggested(self, gpu: str | None) -> MachinePrice | None:
        """The cheapest known machine that has this GPU, by its driver's name; None where none has, or there is none."""
        having = [price for price in [*self.catalogue, *self.imported] if gpu and price.gpu and _same(price.gpu, gpu)]
        return min(having, key=lambda price: price.per_hour, default=None)

    def version(self, price_id: int) -> PriceVersion | None:
        """A price that was in force."""
        with self._database.session() as session:
            return session.get(PriceVersion, price_id)

    def _version(self, price: MachinePrice) -> MachinePrice:
        """The price under the id of the latest version, where that is the same, or of a new one."""
        with self._database.session() as session:
            latest = session.exec(select(PriceVersion).order_by(col(PriceVersion.id).desc()).limit(1)).first()
            said = (price.name, price.nano_per_hour, price.source, price.read)
            if latest is None or (latest.name, latest.per_hour, latest.source, latest.read) != said:
                latest = PriceVersion(
                    name=price.name, per_hour=price.nano_per_hour, source=price.source, read=price.read,
                    basis=price.basis, since_ns=time.time_ns(),
                )  # fmt: skip
                session.add(latest)
                session.flush()
            return MachinePrice(**{**_plain(price), "id": latest.id})


def _own(name: str, per_hour: float, basis: dict[str, float] | None) -> MachinePrice:
    source = "purchase ÷ life + watts × tariff" if basis else "the user's own"
    return MachinePrice(name, per_hour, source=source, basis=basis or {})


def _plain(price: MachinePrice) -> dict[str, Any]:
    return {name: getattr(price, name) for name in MachinePrice.__dataclass_fields__}


def _same(wanted: str, gpu: str) -> bool:
    """Whether every word of a GPU's name stands in its driver's name for it."""
    words = gpu.replace("-", " ").upper().split()
    return all(word in words for word in wanted.replace("-", " ").upper().split())
