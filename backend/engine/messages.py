"""The typed messages between the web process and the engine, first those to it. Token ids only, no text."""

from __future__ import annotations

from dataclasses import dataclass, field

from backend.engine.about import EngineInfo
from backend.engine.switches import Switches

REALTIME = "realtime"
BATCH = "batch"
MOST_LOGPROBS = 128
"""Most alternatives that are reported beside a token."""
MOST_LISTED = 1024
"""Most tokens that a request may name in `stop_token_ids` and in `logit_bias`."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are drawn. Temperature 0 is greedy.

    Attributes:
        max_tokens: most tokens to generate; 0 only reads the prompt, for its log probabilities.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the smallest set whose probability reaches p.
        min_p: drop tokens less likely than min_p times the likeliest.
        seed: makes a request's draws its own and repeatable, whatever else is in the batch.
        repetition_penalty: divides (or multiplies) logits of tokens seen in prompt or output (CTRL, Keskar 2019).
        frequency_penalty: subtracted once per occurrence in the output.
        presence_penalty: subtracted once if present in the output.
        logprobs: None, or how many alternatives to report beside each chosen token (0: only the chosen one).
        ignore_eos: keep going past end-of-sequence; benches need it.
        min_tokens: neither end-of-sequence nor a stop token is drawn before this many tokens.
        stop_token_ids: tokens that end the answer as end-of-sequence does.
        logit_bias: (token id, what is added to its logit), -100 (bans it) to 100 (forces it).
        prompt_logprobs: None, or how many alternatives to report beside each token of the prompt.
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
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = ()
    prompt_logprobs: int | None = None

    def named_tokens(self) -> tuple[int, ...]:
        """Every token id that the parameters name, for a check against the vocabulary."""
        return (*self.stop_token_ids, *(token for token, _ in self.logit_bias))


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
    """Stop a request: a generation ends with Finished(reason="abort"), an embedding with Failed(kind="aborted")."""

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


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded and the loop turns."""

    info: EngineInfo


@dataclass(frozen=True, slots=True)
class InfoChanged:
    """Weights or pages were changed, and with them what the engine says of itself."""

    info: EngineInfo


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

    Attributes:
        prefill_seconds: its share, by tokens computed, of the steps that read its prompt, or again what it had lost.
        decode_seconds: its share of the steps that gave its further tokens.
        scheduled: when it first went into a step; 0 if it never did.
        first_token: 0 if it had none.
        drafted_tokens, accepted_tokens: guesses that were checked for it, and those that were right.
        speculation_seconds: machine time that right guesses saved it, less what checking all of them took; below 0
            where they were not worth it, 0 where no step without guesses was measured to compare with.
        cached_seconds: what reading the cached tokens would have taken, as steps went then; 0 where none was measured.
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
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    speculation_seconds: float = 0.0
    cached_seconds: float = 0.0

    @property
    def compute_seconds(self) -> float:
        """The model's time on this request."""
        return self.prefill_seconds + self.decode_seconds

    @property
    def queue_seconds(self) -> float:
        """Seconds from arrival to the first step, or to the end of a request that never got into one."""
        return max((self.scheduled or self.finished) - self.arrival, 0.0)


@dataclass(frozen=True, slots=True)
class StepOutput:
    """New tokens of every sequence of one step: (request id, token id, log probability or None)."""

    tokens: list[tuple[str, int, Logprob | None]]


@dataclass(frozen=True, slots=True)
class Finished:
    """A request ended. Reasons: "stop" (end of sequence or a stop token), "length", "abort".

    `prompt_logprobs` has an entry for each token of the prompt where they were asked for: None for the first, which
    nothing stands before, and for those that an abort left unread.
    """

    request_id: str
    reason: str
    usage: Usage
    prompt_logprobs: tuple[Logprob | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """A request ended in an error.

    `kind`: "invalid" (it can never be served so), "aborted", "internal" (of this request alone), "unavailable" (the
    engine is away) or "load_failed" (the model cannot be loaded, so that asking again will not help).
    `usage` is what a generation had taken until then, `embedding_seconds` what an embedding had; where the engine died
    with them, nobody knows.
    """

    request_id: str
    error: str
    kind: str = "internal"
    usage: Usage | None = None
    embedding_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors of an Embed as float32 bytes, row after row of `dimension`; `compute_seconds` is the model's time."""

    request_id: str
    vectors: bytes
    dimension: int
    compute_seconds: float


@dataclass(frozen=True, slots=True)
class SwitchesApplied:
    """The switches now in force. `loading` names a variant still being loaded; `error` why one could not be.

    `progress` is the share of its layers that are made.
    """

    switches: Switches
    variant: str
    loading: str | None = None
    error: str | None = None
    progress: float = 0.0


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
