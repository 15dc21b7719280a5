"""Which room gives `/metrics` what is neither of an entry of the ledger nor of the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from backend.metering.budgets import Budgets
from backend.metering.ledger import Ledger
from backend.metering.metric_family import Point
from backend.metering.metrics import Metrics
from backend.metering.prices import Prices
from backend.store.database import Database


def bind(
    metrics: Metrics,
    prices: Prices,
    ledger: Ledger,
    database: Database,
    budgets: Budgets,
    limited: Callable[[], list[str]],
    refusals: Callable[[], Iterable[Point]],
) -> None:
    """Tell the metrics where to read.

    Args:
        metrics: which read when they are scraped.
        prices: what an hour costs.
        ledger: what a kill lost.
        database: which writes were given up.
        budgets: what is spent of them.
        limited: ids of the keys that have one.
        refusals: requests that found no place in the line.
    """
    metrics.bind_price(lambda: prices.current)
    metrics.bind("tenfold_limit_rejections_total", budgets.refusals)
    metrics.bind("tenfold_budget_used_ratio", lambda: budgets.used(limited()))
    metrics.bind("tenfold_lost_writes_total", lambda: database.writer.lost)
    metrics.bind("tenfold_lost_seconds", lambda: ledger.lost_seconds)
    metrics.bind("vllm:admission_rejections_total", refusals)
