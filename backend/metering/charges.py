"""Makes entries of what the engine and the caches report: what it took, at the price in force, and what was avoided.

Avoided is shown apart, by cause, and never subtracted: a cached prompt at the rate at which this machine reads prompts
now, never at one that includes decode; a known vector at the rate at which it embeds; an answer given again at what it
took the first time; guesses at the steps that they made needless, less what checking them took.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from sqlmodel import Session, col, select

from backend.engine.messages import Usage as EngineUsage
from backend.metering.entry import LONGEST_ERROR, SECOND, Asked, Entry, fingerprint, nanoseconds, price_of
from backend.metering.prices import MachinePrice, Prices
from backend.metering.rate import PrefillRate, TokenRate
from backend.store.tables.answers import Answer
from backend.store.tables.usage import EntryRow, Outcome, UsageKind

LEAST_READ = 32
"""Tokens of a prompt from which its reading says something of the rate; below, it is mostly the step around them."""
RECALLED = 200


class Charges:
    """What things take on this machine.

    Args:
        prices: what an hour of it costs.
        stamp: nanoseconds since the epoch.
    """

    def __init__(self, prices: Prices, stamp: Callable[[], int]) -> None:
        self._prices, self._stamp = prices, stamp
        self._prefill: dict[str, PrefillRate] = {}  # by variant: other weights read at another rate
        self._embedding = TokenRate()
        self._lock = threading.Lock()

    @property
    def price(self) -> MachinePrice:
        """The price in force."""
        return self._prices.current

    @property
    def embedding_rate(self) -> float:
        """Seconds that an embedded token takes, over the latest; 0 before the first."""
        return self._embedding.seconds_per_token

    def recall(self, session: Session) -> None:
        """The rates from the latest entries, so that plans and savings have them right after a start."""
        for kind in (UsageKind.EMBED, UsageKind.GENERATE):
            latest = (
                select(EntryRow)
                .where(EntryRow.kind == kind, EntryRow.compute_ns > 0)
                .order_by(col(EntryRow.finished_ns).desc())
                .limit(RECALLED)
            )
            for row in reversed(session.exec(latest).all()):
                if kind is UsageKind.EMBED:
                    self._embedding.learn(row.compute_ns / SECOND, row.prompt_tokens - row.cached_tokens)
                elif row.ttft_ns is not None:
                    self._learn(row.variant, row.prefill_ns / SECOND, row.cached_tokens, row.prompt_tokens)

    def generation(self, asked: Asked, usage: EngineUsage, outcome: str) -> Entry:
        """Of a generation that ended: "stop", "length" or "abort"."""
        return self._generated(asked, usage, Outcome(outcome), outcome)

    def answer(self, asked: Asked, answer: Answer, latency: float) -> Entry:
        """Of an answer that was given again."""
        latency_ns = nanoseconds(latency)
        return self._entry(
            asked, UsageKind.GENERATE, Outcome.CACHED, latency_ns, finish_reason=answer.finish_reason,
            ttft_ns=latency_ns, prompt_tokens=answer.prompt_tokens, cached_tokens=answer.prompt_tokens,
            output_tokens=len(answer.token_ids), avoided_answer=self._cost(nanoseconds(answer.compute_seconds)),
        )  # fmt: skip

    def reply(self, asked: Asked, latency: float) -> Entry:
        """Of a request that was answered without the model."""
        return self._entry(asked, UsageKind.GENERATE, Outcome.REPLY, nanoseconds(latency), finish_reason="stop")

    def failure(
        self, asked: Asked, prompt_tokens: int, latency: float, error: str, usage: EngineUsage | None
    ) -> Entry:
        """Of a request that ended in an error."""
        if usage is not None:
            return self._generated(asked, usage, Outcome.ERROR, "error", error)
        return self._entry(
            asked, UsageKind.GENERATE, Outcome.ERROR, nanoseconds(latency), finish_reason="error",
            prompt_tokens=prompt_tokens, error=error[:LONGEST_ERROR],
        )  # fmt: skip

    def embedding(
        self, asked: Asked, computed_tokens: int, reused_tokens: int, seconds: float, latency: float, error: str
    ) -> Entry:
        """Of an embedding call."""
        if not error:  # of one that failed nobody knows how many tokens its time was for
            self._embedding.learn(seconds, computed_tokens)
        return self._entry(
            asked, UsageKind.EMBED, Outcome.ERROR if error else Outcome.STOP, nanoseconds(latency),
            compute_ns=nanoseconds(seconds), prompt_tokens=computed_tokens + reused_tokens,
            cached_tokens=reused_tokens, error=error[:LONGEST_ERROR],
            avoided_embedding=self._cost(nanoseconds(reused_tokens * self.embedding_rate)),
        )  # fmt: skip

    def _generated(
        self, asked: Asked, usage: EngineUsage, outcome: Outcome, finish_reason: str, error: str = ""
    ) -> Entry:
        latency = nanoseconds(usage.finished - usage.arrival)
        ttft = nanoseconds(usage.first_token - usage.arrival) if usage.first_token else None
        if ttft is not None:  # otherwise nobody knows how far the reading had come
            self._learn(usage.variant, usage.prefill_seconds, usage.cached_tokens, usage.prompt_tokens)
        prefill, decode = nanoseconds(usage.prefill_seconds), nanoseconds(usage.decode_seconds)
        further = usage.output_tokens - 1
        guessed = usage.speculation_seconds
        saved = nanoseconds(abs(guessed)) if guessed >= 0 else -nanoseconds(abs(guessed))
        return self._entry(
            asked, UsageKind.GENERATE, outcome, latency, variant=usage.variant, finish_reason=finish_reason,
            error=error[:LONGEST_ERROR], queue_ns=nanoseconds(usage.queue_seconds), prefill_ns=prefill,
            decode_ns=decode, compute_ns=prefill + decode, ttft_ns=ttft,
            tpot_ns=None if ttft is None or further < 1 else (latency - ttft) // further,
            prompt_tokens=usage.prompt_tokens, cached_tokens=usage.cached_tokens, output_tokens=usage.output_tokens,
            drafted_tokens=usage.drafted_tokens, accepted_tokens=usage.accepted_tokens,
            avoided_prefix=self._cost(nanoseconds(self._cached_seconds(usage))),
            avoided_speculation=self._cost(saved),
        )  # fmt: skip

    def _entry(self, asked: Asked, kind: UsageKind, outcome: Outcome, latency_ns: int, **more: Any) -> Entry:
        now, price = self._stamp(), self.price
        cost = price_of(more.get("compute_ns", 0), price.nano_per_hour)
        return Entry(
            asked.request_id, kind, asked.source, asked.path, asked.model, outcome, now - latency_ns, now, price.id,
            cost, key_id=asked.key_id, tenant=asked.tenant,
            switches=fingerprint(asked.switches) if asked.switches is not None else "", search_ns=asked.search_ns,
            latency_ns=latency_ns, **more,
        )  # fmt: skip

    def _cost(self, duration_ns: int) -> int:
        return price_of(duration_ns, self.price.nano_per_hour)

    def _cached_seconds(self, usage: EngineUsage) -> float:
        """As the engine measured it, and until it has read anything, at the rate of what was read before."""
        return usage.cached_seconds or self._rate(usage.variant).seconds(0, usage.cached_tokens)

    def _rate(self, variant: str) -> PrefillRate:
        with self._lock:
            return self._prefill.setdefault(variant, PrefillRate(LEAST_READ))

    def _learn(self, variant: str, seconds: float, cached: int, prompt: int) -> None:
        self._rate(variant).learn(seconds, cached, prompt)
