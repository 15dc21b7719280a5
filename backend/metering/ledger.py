"""The ledger: one row per request that reached a model, and the sums the dashboard shows.

A request's cost is its share of the engine's step times × the machine's price per hour. Saved is what the prompt
tokens found in the cache would have cost at the rate measured on this machine; it is shown apart, never subtracted.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import Any

from sqlalchemy import func
from sqlmodel import col, select

from backend.engine.messages import Usage as EngineUsage
from backend.metering.account import Account
from backend.metering.metrics import Metrics
from backend.metering.prices import Prices
from backend.store.database import Database
from backend.store.tables import Answer, Usage

log = logging.getLogger(__name__)


class Ledger:
    """Writes usage rows from a thread of its own, so that no stream waits for the disk."""

    def __init__(self, database: Database, prices: Prices, metrics: Metrics) -> None:
        self._database, self._prices, self._metrics = database, prices, metrics
        self._rows: queue.SimpleQueue[Usage | threading.Event | None] = queue.SimpleQueue()
        self._prefill_rate = 0.0  # seconds per computed prompt token, smoothed over requests
        self._thread = threading.Thread(target=self._write, name="ledger", daemon=True)
        self._thread.start()

    def account(self, usage: EngineUsage) -> Account:
        """Turn the engine's usage of one request into times, cost and savings."""
        latency = usage.finished - usage.arrival
        ttft = usage.first_token - usage.arrival if usage.first_token else None
        tpot = (latency - ttft) / (usage.output_tokens - 1) if ttft is not None and usage.output_tokens > 1 else None
        computed = usage.prompt_tokens - usage.cached_tokens + max(usage.output_tokens - 1, 0)
        if computed > 0 and usage.compute_seconds > 0:
            rate = usage.compute_seconds / computed
            self._prefill_rate = rate if not self._prefill_rate else 0.9 * self._prefill_rate + 0.1 * rate
        per_second = self._prices.current.per_hour / 3600
        return Account(
            ttft=ttft,
            latency=latency,
            tpot=tpot,
            tokens_per_second=1 / tpot if tpot else None,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            output_tokens=usage.output_tokens,
            compute_seconds=usage.compute_seconds,
            cost=usage.compute_seconds * per_second,
            saved=usage.cached_tokens * self._prefill_rate * per_second,
        )

    def record(
        self,
        usage: EngineUsage,
        *,
        request_id: str,
        source: str,
        path: str,
        model: str,
        outcome: str,
        switches: dict[str, Any],
    ) -> Account:
        """Write a generation into the ledger; returns its account at once."""
        account = self.account(usage)
        self._metrics.observe(account, source=source, model=model, outcome=outcome)
        now = time.time()
        self._rows.put(
            Usage(
                request_id=request_id,
                source=source,
                path=path,
                model=model,
                variant=usage.variant,
                outcome=outcome,
                arrived=now - account.latency,
                finished=now,
                queue_seconds=max(usage.scheduled - usage.arrival, 0.0) if usage.scheduled else account.latency,
                ttft=account.ttft,
                latency=account.latency,
                tpot=account.tpot,
                prompt_tokens=account.prompt_tokens,
                cached_tokens=account.cached_tokens,
                output_tokens=account.output_tokens,
                compute_seconds=account.compute_seconds,
                price_per_hour=self._prices.current.per_hour,
                cost=account.cost,
                saved=account.saved,
                switches=switches,
            )
        )
        return account

    def record_answer(
        self, answer: Answer, *, request_id: str, source: str, path: str, model: str, latency: float
    ) -> Account:
        """Write an answer that was given again: nothing computed, and what it took the first time saved."""
        per_second = self._prices.current.per_hour / 3600
        output = len(answer.token_ids)
        account = Account(
            ttft=latency, latency=latency, tpot=None, tokens_per_second=None, prompt_tokens=answer.prompt_tokens,
            cached_tokens=answer.prompt_tokens, output_tokens=output, compute_seconds=0.0, cost=0.0,
            saved=answer.compute_seconds * per_second,
        )  # fmt: skip
        self._metrics.observe(account, source=source, model=model, outcome="cached")
        now = time.time()
        self._rows.put(
            Usage(
                request_id=request_id, source=source, path=path, model=model, outcome="cached", arrived=now - latency,
                finished=now, ttft=latency, latency=latency, prompt_tokens=answer.prompt_tokens,
                cached_tokens=answer.prompt_tokens, output_tokens=output,
                price_per_hour=self._prices.current.per_hour, saved=account.saved,
            )
        )
        return account

    def record_embedding(
        self, *, source: str, model: str, texts: int, computed_tokens: int, reused_tokens: int, seconds: float
    ) -> None:
        """Write an embedding call: `seconds` of the model for `computed_tokens`, and the tokens it did not compute."""
        per_second = self._prices.current.per_hour / 3600
        rate = seconds / computed_tokens if computed_tokens else self.embedding_rate()
        now = time.time()
        self._rows.put(
            Usage(
                request_id=f"embed-{texts}",
                source=source,
                kind="embed",
                model=model,
                outcome="stop",
                arrived=now - seconds,
                finished=now,
                latency=seconds,
                prompt_tokens=computed_tokens + reused_tokens,
                cached_tokens=reused_tokens,
                compute_seconds=seconds,
                price_per_hour=self._prices.current.per_hour,
                cost=seconds * per_second,
                saved=reused_tokens * rate * per_second,
            )
        )

    def embedding_rate(self) -> float:
        """Seconds that an embedded token took on this machine so far."""
        with self._database.session() as session:
            seconds, tokens = session.exec(
                select(func.sum(Usage.compute_seconds), func.sum(Usage.prompt_tokens - Usage.cached_tokens)).where(
                    Usage.kind == "embed"
                )
            ).one()
        return float(seconds or 0) / float(tokens) if tokens else 0.0

    def _write(self) -> None:
        while True:
            row = self._rows.get()
            if row is None:
                return
            if isinstance(row, threading.Event):
                row.set()
                continue
            try:
                with self._database.session() as session:
                    session.add(row)
            except Exception:
                log.exception("a usage row could not be written")

    def flush(self, timeout: float = 10.0) -> None:
        """Wait until everything recorded so far is stored."""
        done = threading.Event()
        self._rows.put(done)
        done.wait(timeout)

    def close(self) -> None:
        """Store what is left and end the thread."""
        self._rows.put(None)
        self._thread.join(10)

    # ---- reading -------------------------------------------------------------------------------------------------

    def window(self, seconds: float, *, kind: str = "generate") -> list[Usage]:
        """Rows finished in the last `seconds`, oldest first."""
        since = time.time() - seconds
        with self._database.session() as session:
            query = select(Usage).where(Usage.finished >= since, Usage.kind == kind).order_by(col(Usage.finished))
            return list(session.exec(query).all())

    def totals(self) -> dict[str, float]:
        """Sums over everything recorded: requests, tokens, seconds of compute, cost, saved."""
        with self._database.session() as session:
            row = session.exec(
                select(  # type: ignore[call-overload]
                    func.count(col(Usage.id)),
                    func.coalesce(func.sum(Usage.prompt_tokens), 0),
                    func.coalesce(func.sum(Usage.cached_tokens), 0),
                    func.coalesce(func.sum(Usage.output_tokens), 0),
                    func.coalesce(func.sum(Usage.compute_seconds), 0.0),
                    func.coalesce(func.sum(Usage.cost), 0.0),
                    func.coalesce(func.sum(Usage.saved), 0.0),
                )
            ).one()
        names = ("requests", "prompt_tokens", "cached_tokens", "output_tokens", "compute_seconds", "cost", "saved")
        return {name: float(value) for name, value in zip(names, row, strict=True)}


