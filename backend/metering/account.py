"""What one request cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Account:
    """What a request cost, for its row and for the line under an answer."""

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
