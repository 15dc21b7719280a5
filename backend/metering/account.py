"""What one request cost, in the units that people read."""

from __future__ import annotations

from dataclasses import dataclass

from backend.metering.entry import DOLLAR, SECOND, Entry


@dataclass(frozen=True)
class Account:
    """What a request cost, for its row and for the line under an answer; seconds and US dollars."""

    ttft: float | None
    latency: float
    tpot: float | None
    tokens_per_second: float | None
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    compute_seconds: float
    prefill_seconds: float
    decode_seconds: float
    cost: float
    saved: float


def account_of(entry: Entry) -> Account:
    """The account of an entry."""
    ttft, tpot = entry.ttft_ns, entry.tpot_ns
    return Account(
        ttft=None if ttft is None else ttft / SECOND,
        latency=entry.latency_ns / SECOND,
        tpot=None if tpot is None else tpot / SECOND,
        tokens_per_second=SECOND / tpot if tpot else None,
        prompt_tokens=entry.prompt_tokens,
        cached_tokens=entry.cached_tokens,
        output_tokens=entry.output_tokens,
        compute_seconds=entry.compute_ns / SECOND,
        prefill_seconds=entry.prefill_ns / SECOND,
        decode_seconds=entry.decode_ns / SECOND,
        cost=entry.cost / DOLLAR,
        saved=entry.avoided / DOLLAR,
    )
