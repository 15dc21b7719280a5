"""What a row of `metric_table` is: a name, its kind, its labels, and how it is read from where its value comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from backend.metering.entry import Entry

ENGINE = "0"
"""vLLM numbers its engines; here is one."""
Point = tuple[tuple[str, ...], float]
"""Values of the labels, and the value."""
ValuesOf = Callable[[Any], Iterable[Point]]


class Kind(StrEnum):
    """Prometheus' kinds."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Origin(StrEnum):
    """Where a value comes from, and so what a row's `read` is given."""

    ENTRIES = "entries"
    """Each entry of the ledger since the start: sums are of the integers that the ledger sums."""
    ENGINE = "engine"
    """The engine's latest counters (`Stats`)."""
    MONEY = "money"
    """Sums of entries and the price in force (`metric_money.Spending`)."""
    SERVER = "server"
    """A room that was named to `Metrics.bind`, which gives the points itself."""


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """One name.

    Attributes:
        name: as it is scraped.
        text: what it is, for people.
        labels: names of its labels.
        read: its points, of what `origin` says; whole numbers in units of 1 / `unit` where it is of entries.
        unit: what one of the shown unit is of the unit read.
        buckets: upper edges of a histogram, in the shown unit.
        weight: of a histogram, how many observations an entry is.
    """

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...]
    origin: Origin
    read: ValuesOf
    unit: int = 1
    buckets: tuple[float, ...] = ()
    weight: Callable[[Entry], int] = lambda _: 1
