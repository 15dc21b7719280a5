"""`/metrics` for Prometheus: every name of `metric_table`, with the values of the rooms that it was given."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from backend.engine.messages import Stats
from backend.engine.protocol import EngineClient, Phase
from backend.metering.devices import Gpus
from backend.metering.entry import Entry
from backend.metering.metric_entries import EntryCollector
from backend.metering.metric_family import ENGINE, Family, Kind, Point
from backend.metering.metric_machine import GPU_VALUES, Processors, gpu_points
from backend.metering.metric_money import Spending
from backend.metering.metric_table import OF_MONEY, OF_THE_ENGINE, OF_THE_SERVER
from backend.metering.prices import MachinePrice

log = logging.getLogger(__name__)


class Metrics:
    """Sums and spreads of the ledger's entries, and what is read from engine, rooms and machine when asked.

    Args:
        engine: whose counters are shown.
        model: the name under which the language model is served.
    """

    def __init__(self, engine: EngineClient, model: str = "") -> None:
        self.registry = CollectorRegistry()
        self._engine, self._model = engine, model
        self._entries = EntryCollector()
        self._spending: Spending | None = None
        self._bound: dict[str, Callable[[], Iterable[Point]]] = {}
        self.registry.register(self._entries)
        self.registry.register(_ReadCollector(self._readings))
        ProcessCollector(registry=self.registry)  # the web process: memory, processor time, open files
        self._bind_machine()

    def observe(self, entry: Entry) -> None:
        """Count one entry, also one of idle time."""
        self._entries.add(entry)

    def bind(self, name: str, read: Callable[[], float | Iterable[Point]]) -> None:
        """Say where a name of the table that is of the server comes from: a number, or its points."""
        if name not in {family.name for family in OF_THE_SERVER}:
            raise ValueError(f"{name} is not a name of the table that a room may give.")

        def points() -> Iterator[Point]:
            value = read()
            yield from [((), float(value))] if isinstance(value, (int, float)) else value

        self._bound[name] = points

    def bind_price(self, price: Callable[[], MachinePrice]) -> None:
        """Say what an hour of the machine costs."""
        self._spending = Spending(self._entries, price, self._model, self._variant)

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)

    # ---- how -----------------------------------------------------------------------------------------------------

    def _variant(self) -> str:
        applied = self._engine.applied
        return applied.variant if applied is not None else ""

    def _bind_machine(self) -> None:
        engine, gpus = self._engine, Gpus()
        processors = Processors(lambda: engine.info.pid if engine.info is not None else None)
        self.bind("tenfold_engine_up", lambda: float(engine.state.phase is Phase.READY))
        self.bind("tenfold_engine_restarts_total", lambda: engine.state.restarts)
        self.bind("tenfold_cpu_seconds_total", processors.seconds)
        self.bind("tenfold_cpu_utilization_ratio", processors.shares)
        for name, value in GPU_VALUES.items():
            self.bind(name, lambda value=value: gpu_points(gpus, value))  # type: ignore[misc]

    def _readings(self) -> Iterator[tuple[Family, Iterable[Point]]]:
        """Each name that is not of entries, with its points now; none where they cannot be read."""
        stats = self._engine.stats
        serving = _Serving(stats, (self._model, ENGINE), self._block_size()) if stats is not None else None
        for family in OF_THE_ENGINE:
            yield family, family.read(serving) if serving is not None else ()
        for family in OF_MONEY:
            yield family, family.read(self._spending) if self._spending is not None else ()
        for family in OF_THE_SERVER:
            bound = self._bound.get(family.name)
            yield family, family.read(bound()) if bound is not None else ()

    def _block_size(self) -> int:
        return self._engine.info.block_size if self._engine.info is not None else 0


@dataclass(frozen=True, slots=True)
class _Serving:
    """What rows of the table that are of the engine read."""

    stats: Stats
    model: tuple[str, str]
    block_size: int

    @property
    def waiting(self) -> int:
        return self.stats.waiting_realtime + self.stats.waiting_batch

    @property
    def blocks(self) -> int:
        return self.stats.kv_free + self.stats.kv_cached + self.stats.kv_used


class _ReadCollector(Collector):
    def __init__(self, readings: Callable[[], Iterator[tuple[Family, Iterable[Point]]]]) -> None:
        self._readings = readings

    def collect(self) -> Iterator[Metric]:
        """Yield every name; one that cannot be read has no points, and hides no other."""
        for family, points in self._readings():
            made = CounterMetricFamily if family.kind is Kind.COUNTER else GaugeMetricFamily
            written = made(family.name, family.text, labels=family.labels)
            try:
                for labels, value in points:
                    written.add_metric(labels, value)
            except Exception:
                log.exception("%s could not be read", family.name)
            yield written
