"""One line of the log for each request that ended: who asked, what it took, what it cost; never what was said."""

from __future__ import annotations

import logging
from typing import Any

from backend.metering.entry import DOLLAR, Entry
from backend.store.tables.usage import UsageKind

log = logging.getLogger("tenfold.requests")

MILLISECOND = 1_000_000


def fields_of(entry: Entry) -> dict[str, Any]:
    """What the line says. `request_id` is the entry's: the API returns it, and Monitor finds it."""
    return {
        "request_id": entry.request_id,
        "kind": entry.kind.value,
        "source": entry.source,
        "path": entry.path,
        "key_id": entry.key_id,
        "model": entry.model,
        "outcome": entry.outcome.value,
        "prompt_tokens": entry.prompt_tokens,
        "cached_tokens": entry.cached_tokens,
        "output_tokens": entry.output_tokens,
        "queue_ms": _ms(entry.queue_ns),
        "ttft_ms": None if entry.ttft_ns is None else _ms(entry.ttft_ns),
        "total_ms": _ms(entry.latency_ns),
        "cost": f"{entry.cost / DOLLAR:.9f}",
    }


def log_request(entry: Entry) -> None:
    """Write the line; idle time has none."""
    if entry.kind is not UsageKind.IDLE and log.isEnabledFor(logging.INFO):
        log.info("request", extra={"fields": fields_of(entry)})


def _ms(duration_ns: int) -> float:
    return round(duration_ns / MILLISECOND, 3)
