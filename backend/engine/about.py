"""What an engine says of itself: what is loaded, its limits, and what was measured at start. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class MeasuredVariant:
    """What one way to hold the weights loses against full precision, and how fast it is here.

    Attributes:
        perplexity_change: relative; 0.01 is one percent up.
        perplexity_error: its standard error.
        same_token: share of places where the likeliest next token is that of full precision.
        same_low: lower end of its interval of 95 %.
        same_high: upper end.
        places: how many places were compared.
        inside: whether it passes the gate.
        tokens_per_second: output tokens of 8 requests of 128 tokens in, 128 out; 0 where it was not timed.
        speed: how many times that of 16 bits, measured in turn.
    """

    variant: str
    perplexity_change: float
    perplexity_error: float
    same_token: float
    same_low: float
    same_high: float
    places: int
    inside: bool
    tokens_per_second: float = 0.0
    speed: float = 0.0

    def timed(self, tokens_per_second: float, speed: float) -> MeasuredVariant:
        """The same with its speed."""
        return replace(self, tokens_per_second=tokens_per_second, speed=speed)

    def summary(self) -> str:
        """In one line, for the log."""
        return (
            f"{self.variant} {self.speed:.2f} x, perplexity {self.perplexity_change:+.2%}, next token the same "
            f"{self.same_token:.1%}"
        )


@dataclass(frozen=True, slots=True)
class PrecisionReport:
    """What "auto" weights are, and why.

    Attributes:
        state: "measuring", "measured", "waiting" (to begin), "off" or "failed".
        detail: for a person: what is being measured, how long it took, or why nothing is.
        chosen: the variant that "auto" is now.
        measured: what was tried, 16 bits first.
        when: seconds since 1970.
        gate: what a variant has to pass, in words.
    """

    state: str
    detail: str
    chosen: str
    measured: tuple[MeasuredVariant, ...] = ()
    when: float = 0.0
    gate: str = ""


@dataclass(frozen=True, slots=True)
class TriedProducts:
    """A way to multiply by the weights, as it did at start on this model's own shapes.

    Attributes:
        way: "tiles", "own" or "torch".
        label: for a person.
        wide_ms: milliseconds for a fixed piece of work with weights in 16 bits.
        bytes_ms: the same in 8 bits; 0 where that was not measured.
        problem: why it cannot be chosen; empty where it can.
        passes: whether the problem may be another the next time, as a lack of memory is.
    """

    way: str
    label: str
    wide_ms: float
    bytes_ms: float
    problem: str = ""
    passes: bool = False

    def summary(self) -> str:
        """In a few words, for the log."""
        if self.problem:
            return f"{self.label}: {self.problem}"
        return f"{self.label}: {self.wide_ms:.1f} ms in 16 bits" + (
            f", {self.bytes_ms:.1f} in 8" if self.bytes_ms else ""
        )


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine has loaded, where, and its limits.

    Attributes:
        model_folder: of the language model, with its tokenizer.
        fingerprint: of its weights.
        eos_ids: tokens that end an answer.
        max_model_len: most tokens of prompt and answer together.
        variant: how the weights are held.
        attention: the attention backend in use.
        products: what multiplies by the weights: our own kernels' instructions, or torch.
        notices: what a person should know about how it runs here.
        kv_blocks: pages of the KV cache, of `block_size` tokens each.
        load_seconds: how long loading took.
        embedding_folder: of the embedding model; None without one, as are the other `embedding_*`.
        embedding_fingerprint: of its weights and of how they are computed with.
        embedding_max_tokens: most tokens of one input.
        pid: of the engine's process.
        ineffective: switches that do nothing here, and why.
        precision: what "auto" weights are, and why.
        tried_products: the ways to multiply that were tried at start, the one that serves first; none on a GPU.
    """

    model_folder: str
    fingerprint: str
    family: str
    vocab: int
    eos_ids: tuple[int, ...]
    max_model_len: int
    variant: str
    device: str
    device_type: str
    attention: str
    products: str
    notices: tuple[str, ...]
    kv_blocks: int
    block_size: int
    load_seconds: float
    embedding_folder: str | None
    embedding_fingerprint: str | None
    embedding_dimension: int | None
    embedding_max_tokens: int | None
    pid: int
    ineffective: dict[str, str] = field(default_factory=dict)
    precision: PrecisionReport | None = None
    tried_products: tuple[TriedProducts, ...] = ()
