"""The ledger: one row per request that reached a model, failed ones too, and the sums the dashboard shows.

A request's cost is its share of the engine's step times × the machine's price per hour. Saved is what the prompt
tokens found in the cache would have cost to read, at the rate at which this machine read prompts last; it is shown
apart, never subtracted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import case, func, insert
from sqlmodel import Session, col, select

from backend.engine.messages import Usage as EngineUsage
from backend.metering.account import Account
from backend.metering.metrics import Metrics
from backend.metering.percentiles import Percentiles, percentiles
from backend.metering.prices import Prices
from backend.metering.rate import TokenRate
from backend.store.database import Database
from backend.store.tables.answers import Answer
from backend.store.tables.usage import Outcome, Usage, UsageKind

LEAST_READ = 32
"""Tokens of a prompt from which its reading says something of the rate; below, it is mostly the step around them."""
RECALLED = 200


@dataclass(frozen=True, slots=True)
class Asked:
    """Which request a row is of: id, who sent it ("console", "api", "job", "lab"), path and name of the model."""

    request_id: str
    source: str
    path: str
    model: str


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over many rows; tokens of the three caches apart.

    Attributes:
        prompt_tokens: went to the language model.
        cached_tokens: of these, found in the prefix cache.
        repeated_tokens: belong to answers that were given again.
        reused_tokens: belong to vectors that were known.
        compute_seconds: of the engine.
        cost, saved: US dollars.
    """

    requests: int
    prompt_tokens: int
    cached_tokens: int
    repeated_tokens: int
    reused_tokens: int
    output_tokens: int
    compute_seconds: float
    cost: float
    saved: float


class Ended(NamedTuple):
    """A generation as charts show it: seconds since the epoch; seconds, where it had a token; US dollars."""

    finished: float
    ttft: float | None
    cost: float


class Ledger:
    """Keeps the account of every request; rows are written in the background, so that no stream waits for the disk."""

    def __init__(self, database: Database, prices: Prices, metrics: Metrics) -> None:
        self._database, self._prices, self._metrics = database, prices, metrics
        self._prefill = TokenRate(least=LEAST_READ)
        self._embedding = TokenRate()
        self._recall()

    def _recall(self) -> None:
        """The embedding rate from the latest rows, so that plans have one right after a start."""
        with self._database.session() as session:
            latest = (
                select(Usage.compute_seconds, Usage.prompt_tokens - Usage.cached_tokens)
                .where(Usage.kind == UsageKind.EMBED)
                .order_by(col(Usage.finished).desc())
                .limit(RECALLED)
            )
            for seconds, tokens in reversed(session.exec(latest).all()):
                self._embedding.learn(seconds, tokens)

    # ---- writing -------------------------------------------------------------------------------------------------

    def account(self, usage: EngineUsage) -> Account:
        """Turn the engine's usage of one request into times, cost and savings."""
        latency = usage.finished - usage.arrival
        ttft = usage.first_token - usage.arrival if usage.first_token else None
        tpot = (latency - ttft) / (usage.output_tokens - 1) if ttft is not None and usage.output_tokens > 1 else None
        if usage.first_token:  # otherwise nobody knows how far the reading had come
            self._prefill.learn(usage.prefill_seconds, usage.prompt_tokens - usage.cached_tokens)
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
            prefill_seconds=usage.prefill_seconds,
            decode_seconds=usage.decode_seconds,
            cost=usage.compute_seconds * per_second,
            saved=usage.cached_tokens * self._prefill.seconds_per_token * per_second,
        )

    def record(self, asked: Asked, usage: EngineUsage, *, outcome: str, switches: dict[str, Any]) -> Account:
        """Write a generation into the ledger; returns its account at once.

        Args:
            asked: which request.
            usage: what the engine says it took.
            outcome: "stop", "length" or "abort".
            switches: in force when it was started.
        """
        account = self.account(usage)
        self._put(
            asked, account, outcome=Outcome(outcome), finished_reason=outcome, variant=usage.variant,
            queue_seconds=usage.queue_seconds, switches=switches,
        )  # fmt: skip
        return account

    def record_answer(self, asked: Asked, answer: Answer, *, latency: float) -> Account:
        """Write an answer that was given again: nothing computed, and what it took the first time saved."""
        account = Account(
            ttft=latency, latency=latency, tpot=None, tokens_per_second=None, prompt_tokens=answer.prompt_tokens,
            cached_tokens=answer.prompt_tokens, output_tokens=len(answer.token_ids), compute_seconds=0.0,
            prefill_seconds=0.0, decode_seconds=0.0, cost=0.0,
            saved=answer.compute_seconds * self._prices.current.per_hour / 3600,
        )  # fmt: skip
        self._put(asked, account, outcome=Outcome.CACHED, finished_reason=answer.finish_reason)
        return account

    def record_reply(self, asked: Asked, *, latency: float) -> Account:
        """Write a request that was answered without the model."""
        account = _nothing_computed(0, latency)
        self._put(asked, account, outcome=Outcome.REPLY, finished_reason="stop")
        return account

    def record_failure(self, asked: Asked, *, prompt_tokens: int, latency: float) -> None:
        """Write a request that ended in an error. What it computed until then nobody reported."""
        account = _nothing_computed(prompt_tokens, latency)
        self._put(asked, account, outcome=Outcome.ERROR, finished_reason="error", queue_seconds=0.0)

    def record_embedding(
        self, asked: Asked, *, computed_tokens: int, reused_tokens: int, seconds: float, latency: float, failed: bool
    ) -> None:
        """Write an embedding call.

        Args:
            asked: which request.
            computed_tokens: that went through the model.
            reused_tokens: whose vectors were known.
            seconds: of the model.
            latency: of the whole call.
            failed: it ended in an error.
        """
        self._embedding.learn(seconds, computed_tokens)
        per_second = self._prices.current.per_hour / 3600
        account = Account(
            ttft=None, latency=latency, tpot=None, tokens_per_second=None,
            prompt_tokens=computed_tokens + reused_tokens, cached_tokens=reused_tokens, output_tokens=0,
            compute_seconds=seconds, prefill_seconds=seconds, decode_seconds=0.0, cost=seconds * per_second,
            saved=reused_tokens * self.embedding_rate() * per_second,
        )  # fmt: skip
        outcome = Outcome.ERROR if failed else Outcome.STOP
        self._put(asked, account, outcome=outcome, finished_reason=None, kind=UsageKind.EMBED)

    def embedding_rate(self) -> float:
        """Seconds that an embedded token takes on this machine, over the latest; 0 before the first."""
        return self._embedding.seconds_per_token

    def _put(
        self,
        asked: Asked,
        account: Account,
        *,
        outcome: Outcome,
        finished_reason: str | None,
        kind: UsageKind = UsageKind.GENERATE,
        variant: str = "",
        queue_seconds: float = 0.0,
        switches: dict[str, Any] | None = None,
    ) -> None:
        self._metrics.observe(account, source=asked.source, model=asked.model, finished_reason=finished_reason)
        now = time.time()
        row = {
            "request_id": asked.request_id, "source": asked.source, "path": asked.path, "model": asked.model,
            "kind": kind, "variant": variant, "outcome": outcome, "arrived": now - account.latency, "finished": now,
            "queue_seconds": queue_seconds, "ttft": account.ttft, "latency": account.latency, "tpot": account.tpot,
            "prompt_tokens": account.prompt_tokens, "cached_tokens": account.cached_tokens,
            "output_tokens": account.output_tokens, "compute_seconds": account.compute_seconds,
            "price_per_hour": self._prices.current.per_hour, "cost": account.cost, "saved": account.saved,
            "switches": switches or {},
        }  # fmt: skip
        self._database.writer.submit(lambda session: _insert(session, row))

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until everything recorded so far is stored; False where it is not within `timeout` seconds."""
        return self._database.writer.flush(timeout)

    # ---- reading -------------------------------------------------------------------------------------------------

    def window(self, seconds: float) -> list[Ended]:
        """Generations that ended in the last `seconds`, oldest first."""
        since = time.time() - seconds
        query = select(Usage.finished, Usage.ttft, Usage.cost).where(
            Usage.finished >= since, Usage.kind == UsageKind.GENERATE
        )
        with self._database.session() as session:
            return [Ended(*row) for row in session.exec(query.order_by(col(Usage.finished)))]

    @staticmethod
    def first_token(rows: list[Ended]) -> Percentiles | None:
        """Arrival to first token over these rows, in seconds; None where none of them has one."""
        return percentiles([row.ttft for row in rows if row.ttft is not None])

    def totals(self) -> Totals:
        """Sums over everything recorded."""
        generated = (Usage.kind == UsageKind.GENERATE) & (Usage.outcome != Outcome.CACHED)
        sums: list[Any] = [
            func.count(col(Usage.id)),
            _sum_where(generated, Usage.prompt_tokens),
            _sum_where(generated, Usage.cached_tokens),
            _sum_where(Usage.outcome == Outcome.CACHED, Usage.prompt_tokens),
            _sum_where(Usage.kind == UsageKind.EMBED, Usage.cached_tokens),
            func.coalesce(func.sum(Usage.output_tokens), 0),
            func.coalesce(func.sum(Usage.compute_seconds), 0.0),
            func.coalesce(func.sum(Usage.cost), 0.0),
            func.coalesce(func.sum(Usage.saved), 0.0),
        ]
        with self._database.session() as session:
            row = session.exec(select(*sums)).one()
        *counts, compute_seconds, cost, saved = row
        requests, prompt, cached, repeated, reused, output = map(int, counts)
        return Totals(
            requests, prompt, cached, repeated, reused, output, float(compute_seconds), float(cost), float(saved)
        )


def _sum_where(condition: Any, value: Any) -> Any:
    return func.coalesce(func.sum(case((condition, value), else_=0)), 0)


def _insert(session: Session, row: dict[str, Any]) -> None:
    session.connection().execute(insert(Usage), [row])


def _nothing_computed(prompt_tokens: int, latency: float) -> Account:
    return Account(
        ttft=None, latency=latency, tpot=None, tokens_per_second=None, prompt_tokens=prompt_tokens, cached_tokens=0,
        output_tokens=0, compute_seconds=0.0, prefill_seconds=0.0, decode_seconds=0.0, cost=0.0, saved=0.0,
    )  # fmt: skip
