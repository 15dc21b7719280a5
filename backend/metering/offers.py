"""Lists of machines and their prices that a user brings: CSV in the columns of SkyPilot's catalogues."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass

from backend.errors import InvalidInputError

NEEDED = ("InstanceType", "Price")
MOST_OFFERS = 2000


@dataclass(frozen=True, slots=True)
class Offer:
    """A machine that can be had: its name, what is in it, and US dollars per hour, on demand and spot."""

    instance: str
    per_hour: float
    spot: float | None
    vcpus: float | None
    memory_gib: float | None
    accelerator: str
    count: float | None
    region: str


def read_offers(text: str, region: str = "") -> list[Offer]:
    """The machines of a list, the cheapest first; each once a region, at its lowest price there.

    Args:
        text: CSV with at least the columns InstanceType and Price; also read are SpotPrice, vCPUs, MemoryGiB,
            AcceleratorName, AcceleratorCount and Region. Rows without a price are left out.
        region: only this one; empty for all.

    Raises:
        InvalidInputError: a column is missing, a figure is none, or too many machines are left.
    """
    reader = csv.DictReader(io.StringIO(text.lstrip("\ufeff")))
    missing = [name for name in NEEDED if name not in (reader.fieldnames or [])]
    if missing:
        raise InvalidInputError(f"The list has no column {' and no column '.join(missing)}.")
    found: dict[tuple[str, str], Offer] = {}
    for row in reader:
        line = reader.line_num
        price = _number(row, "Price", line)
        where = (row.get("Region") or "").strip()
        if price is None or (region and where != region):
            continue
        offer = Offer(
            (row["InstanceType"] or "").strip(), price, _number(row, "SpotPrice", line), _number(row, "vCPUs", line),
            _number(row, "MemoryGiB", line), (row.get("AcceleratorName") or "").strip(),
            _number(row, "AcceleratorCount", line), where,
        )  # fmt: skip
        before = found.get((offer.instance, where))
        if offer.instance and (before is None or price < before.per_hour):
            found[offer.instance, where] = offer
    if len(found) > MOST_OFFERS:
        raise InvalidInputError(f"The list has {len(found)} machines; choose a region: at most {MOST_OFFERS} are kept.")
    return sorted(found.values(), key=lambda offer: (offer.per_hour, offer.instance, offer.region))


def _number(row: dict[str, str | None], column: str, line: int) -> float | None:
    text = (row.get(column) or "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise InvalidInputError(f"Line {line}: {column} is {text!r}, which is no figure.")
    return value
