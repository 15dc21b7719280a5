"""Sums and spreads of entries since the start, in the integers that the ledger sums: both agree to the last digit."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from backend.metering.entry import Entry
from backend.metering.metric_family import Family, Kind
from backend.metering.metric_table import OF_ENTRIES


class EntryCollector(Collector):
    """Counts each entry once, under every name of the table that is of entries."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: dict[str, dict[tuple[str, ...], int]] = {
            family.name: {} if family.labels else {(): 0} for family in OF_ENTRIES
        }
        self._counts: dict[str, dict[tuple[str, ...], list[int]]] = {family.name: {} for family in OF_ENTRIES}
        self._edges = {family.name: [round(edge * family.unit) for edge in family.buckets] for family in OF_ENTRIES}

    def add(self, entry: Entry) -> None:
        """Count one entry."""
        with self._lock:
            for family in OF_ENTRIES:
                name, weight = family.name, family.weight(entry)
                for labels, value in family.read(entry):
                    sums = self._sums[name]
                    sums[labels] = sums.get(labels, 0) + int(value) * weight
                    if family.kind is Kind.HISTOGRAM:
                        edges = self._edges[name]
                        counts = self._counts[name].setdefault(labels, [0] * (len(edges) + 1))
                        counts[bisect_left(edges, value)] += weight

    def total(self, name: str, **labels: str) -> int:
        """The sum under a name over all labels but those named, in the unit that the table reads."""
        family = next(family for family in OF_ENTRIES if family.name == name)
        wanted = [(family.labels.index(label), value) for label, value in labels.items()]
        with self._lock:
            sums = dict(self._sums[name])
        return sum(value for key, value in sums.items() if all(key[at] == word for at, word in wanted))

    def collect(self) -> Iterator[Metric]:
        """Yield every name."""
        for family in OF_ENTRIES:
            with self._lock:
                sums = dict(self._sums[family.name])
                counts = {labels: list(each) for labels, each in self._counts[family.name].items()}
            if family.kind is Kind.HISTOGRAM:
                yield _histogram(family, sums, counts)
                continue
            counter = CounterMetricFamily(family.name, family.text, labels=family.labels)
            for values, total in sums.items():
                counter.add_metric(values, total / family.unit)
            yield counter


def _histogram(
    family: Family, sums: dict[tuple[str, ...], int], counts: dict[tuple[str, ...], list[int]]
) -> HistogramMetricFamily:
    written = HistogramMetricFamily(family.name, family.text, labels=family.labels)
    edges = [*(str(float(edge)) for edge in family.buckets), "+Inf"]
    for values, each in counts.items():
        so_far, cumulated = 0, []
        for edge, count in zip(edges, each, strict=True):
            so_far += count
            cumulated.append((edge, float(so_far)))
        written.add_metric(values, cumulated, sums[values] / family.unit)
    return written
