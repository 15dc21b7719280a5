"""What OpenCost shows of inference: what the machine costs an hour and a million tokens do, with idle time and without.

The machine serves one language model, so all that it costs is that model's: embeddings and idle time are part of what
its tokens cost. Prompt and answer are told apart by the machine time that each took.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from backend.metering.entry import DOLLAR
from backend.metering.metric_entries import EntryCollector
from backend.metering.metric_family import Point
from backend.metering.prices import MachinePrice

NAMESPACE, WORKLOAD, METHOD = "tenfold", "inference", "compute_time"
ALLOCATION, USAGE = "allocation", "usage"
"""With idle time, so that it adds up to the bill, and without."""
MILLION = 1_000_000


class Spending:
    """Points of the names that are of money.

    Args:
        entries: sums since the start.
        price: the price in force.
        model: the name under which the language model is served.
        variant: how its weights are held now; empty where that is not known.
    """

    def __init__(
        self, entries: EntryCollector, price: Callable[[], MachinePrice], model: str, variant: Callable[[], str]
    ) -> None:  # fmt: skip
        self._entries, self._price, self._model, self._variant = entries, price, model, variant

    def _labels(self, *more: str) -> tuple[str, ...]:
        return (self._model, self._variant(), NAMESPACE, *more)

    def price(self) -> Iterator[Point]:
        """The price in force."""
        price = self._price()
        yield (price.name, price.source, price.read), price.per_hour

    def hourly(self) -> Iterator[Point]:
        """US dollars an hour by either basis."""
        per_hour = self._price().per_hour
        yield self._labels(ALLOCATION, WORKLOAD), per_hour
        used = self._entries.total("tenfold_compute_seconds_total")
        whole = used + self._entries.total("tenfold_idle_seconds_total")
        if whole > 0:
            yield self._labels(USAGE, WORKLOAD), per_hour * used / whole

    def per_million(self) -> Iterator[Point]:
        """US dollars of a million tokens by either basis: of all, of those read and of those written."""
        total = self._entries.total
        cost, idle = total("tenfold_cost_dollars_total"), total("tenfold_idle_cost_dollars_total")
        read, written = total("vllm:prompt_tokens_total"), total("vllm:generation_tokens_total")
        phases = [("", cost, read + written)] + [
            (phase, total("tenfold_phase_cost_dollars_total", phase=phase), tokens)
            for phase, tokens in (("prompt", read), ("generation", written))
        ]
        for phase, spent, tokens in phases:
            if tokens and cost:
                usage = spent / DOLLAR / tokens * MILLION
                yield self._labels(USAGE, WORKLOAD, phase, METHOD), usage
                yield self._labels(ALLOCATION, WORKLOAD, phase, METHOD), usage * (cost + idle) / cost

    def cache_savings(self) -> Iterator[Point]:
        """Share of what requests would have cost that the prefix cache avoided."""
        avoided = self._entries.total("tenfold_saved_dollars_total", cause="prefix")
        without = self._entries.total("tenfold_cost_dollars_total") + avoided
        if without:
            yield self._labels(), avoided / without
