"""The typed messages between the web process and the engine. Token ids only: no text, no documents."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from backend.engine.switches import Switches

REALTIME = "realtime"
BATCH = "batch"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are drawn. Temperature 0 is greedy.

    Attributes:
        max_tokens: most tokens to generate.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the smallest set whose probability reaches p.
        min_p: drop tokens less likely than min_p times the likeliest.
        seed: makes a request's draws its own and repeatable, whatever else is in the batch.
        repetition_penalty: divides (or multiplies) logits of tokens seen in prompt or output (CTRL, Keskar 2019).
        frequency_penalty: subtracted once per occurrence in the output.
        presence_penalty: subtracted once if present in the output.
        logprobs: None, or how many alternatives to report beside each chosen token (0: only the chosen one).
        ignore_eos: keep going past end-of-sequence; benches need it.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logprobs: int | None = None
    ignore_eos: bool = False

    def problem(self) -> str | None:
        """What no sampler could make sense of, or None."""
        numbers = (self.temperature, self.top_p, self.min_p, self.repetition_penalty, self.frequency_penalty,
                   self.presence_penalty)
        if not all(math.isfinite(number) for number in numbers):
            return "A sampling parameter is not a finite number."
        if self.max_tokens < 1:
            return "max_tokens must be at least 1."
        if self.temperature < 0 or self.top_k < 0 or not 0 <= self.min_p <= 1 or not 0 < self.top_p <= 1:
            return "temperature and top_k must not be negative, min_p lies in [0, 1], top_p in (0, 1]."
        if self.repetition_penalty <= 0:
            return "repetition_penalty must be above 0."
        return None


# ---- to the engine ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Generate:
    """Generate from a prompt.

    Attributes:
        salt: keeps tenants' caches apart.
        arrival: time.monotonic of the sender.
        segments: [start, end) of texts in the prompt that may come again elsewhere in others, in order.
    """

    request_id: str
    prompt: list[int]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    path: str = REALTIME
    salt: str = ""
    arrival: float = 0.0
    segments: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Abort:
    """Stop a request; it ends with Finished(reason="abort")."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Embed:
    """Embed token sequences; answered by Embedded."""

    request_id: str
    inputs: list[list[int]]
    path: str = REALTIME


@dataclass(frozen=True, slots=True)
class SetSwitches:
    """Apply switches; those that reload weights act when the load is done."""

    switches: Switches


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks the loop, not the process: answered by Stats from within a turn."""

    nonce: int


@dataclass(frozen=True, slots=True)
class Shutdown:
    """End the process."""


# ---- from the engine -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded and the loop turns. `info` describes model, device and limits."""

    info: dict[str, Any]


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The engine cannot start; retrying will not help until the cause is mended."""

    error: str


@dataclass(frozen=True, slots=True)
class Logprob:
    """Log probability of a chosen token and of the likeliest alternatives, as (token id, log probability)."""

    chosen: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """What one request cost. Times in seconds; stamps are time.monotonic, one clock for every process of a machine.

    `prefill_seconds` and `decode_seconds` are its shares of the steps that read its prompt and of those that wrote.
    """

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    prefill_seconds: float
    decode_seconds: float
    arrival: float
    scheduled: float
    first_token: float
    finished: float
    variant: str

    @property
    def compute_seconds(self) -> float:
        """Its share of the engine's time."""
        return self.prefill_seconds + self.decode_seconds

    @property
    def queue_seconds(self) -> float:
        """From its arrival to the first step it had a part in; its whole life where there was none."""
        return max((self.scheduled or self.finished) - self.arrival, 0.0)


@dataclass(frozen=True, slots=True)
class StepOutput:
    """New tokens of every sequence of one step: (request id, token id, log probability or None)."""

    tokens: list[tuple[str, int, Logprob | None]]


@dataclass(frozen=True, slots=True)
class Finished:
    """A request ended. Reasons: "stop" (end of sequence), "length", "abort"."""

    request_id: str
    reason: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class Failed:
    """A request ended in an error. `kind`: "invalid" (the request's fault) or "internal"."""

    request_id: str
    error: str
    kind: str = "internal"


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors of an Embed as float32 bytes, row after row of `dimension`; `compute_seconds` is the model's time."""

    request_id: str
    vectors: bytes
    dimension: int
    compute_seconds: float


@dataclass(frozen=True, slots=True)
class SwitchesApplied:
    """The switches now in force. `loading` names a variant still being loaded; `error` why one could not be."""

    switches: Switches
    variant: str
    loading: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Stats:
    """The engine's state within a turn of its loop. Counters run since start; times in seconds."""

    nonce: int
    uptime: float
    busy_seconds: float
    steps: int
    running: int
    waiting_realtime: int
    waiting_batch: int
    kv_free: int
    kv_cached: int
    kv_used: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    preemptions: int
    drafted_tokens: int
    accepted_tokens: int
    embedded_texts: int
    embedding_seconds: float
    variant: str
    memory_bytes: int
    disk_tokens: int = 0  # of cached_tokens, brought back from disk
    disk_bytes: int = 0
    chunk_tokens: int = 0  # of cached_tokens, states of texts used at another position
