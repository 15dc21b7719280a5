"""Every optimization a user can switch, in one dataclass, each with an off mode that really is off."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any


class InvalidSwitchError(ValueError):
    """A switch has no such name or cannot take that value."""


class Needs(StrEnum):
    """What a switch acts through; without it the switch does nothing."""

    KERNEL_PAGES = "kernel_pages"
    SCATTERED_READING = "scattered_reading"
    CUDA_GRAPHS = "cuda_graphs"


def _switch(
    default: Any,
    *,
    label: str,
    help: str,
    group: str,
    acts: str = "at once",
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    needs: Needs | None = None,
) -> Any:
    return field(
        default=default,
        metadata={
            "label": label,
            "help": help,
            "group": group,
            "acts": acts,
            "choices": choices,
            "low": low,
            "high": high,
            "needs": needs,
        },
    )


@dataclass(frozen=True)
class Switches:
    """The state of every optimization; the engine reads those that concern it, the web process the others."""

    in_flight_batching: bool = _switch(
        True,
        group="Batching",
        label="In-flight batching",
        help="Requests join and leave the running batch at every step. Off: a batch is formed, run to its end, and "
        "only then the next is formed.",
    )
    max_batch: int = _switch(
        64,
        group="Batching",
        label="Largest batch",
        low=1,
        high=256,
        help="How many sequences share one step. 1 serves one request at a time.",
    )
    batch_window_ms: int = _switch(
        20,
        group="Batching",
        label="Micro-batch window (ms)",
        low=0,
        high=50,
        help="How long an idle engine waits for company before it starts a step, and only while recent arrivals make "
        "company likely. 0 never waits.",
    )
    chunked_prefill: bool = _switch(
        True,
        group="Batching",
        label="Chunked prefill",
        help="A long prompt is read in pieces between the others' next tokens, instead of stopping everybody.",
    )
    prompt_stall_percent: int = _switch(
        100,
        group="Batching",
        label="Longer steps for a long prompt (%)",
        low=10,
        high=5000,
        help="How much longer others may wait for their next token while a prompt beyond the token budget is read. "
        "100: at most twice as long, or 50 ms where that is more. More reads the prompt sooner.",
    )
    dual_path: bool = _switch(
        True,
        group="Batching",
        label="Urgent before patient",
        help="Batch work gives way to people waiting. Off: first come, first served.",
    )
    batch_floor_percent: int = _switch(
        5,
        group="Batching",
        label="Batch work gets at least (% of the time)",
        low=0,
        high=50,
        help="While people keep the machine busy, batch work gets this share of its time all the same.",
    )
    batch_deadline_s: int = _switch(
        900,
        group="Batching",
        label="Batch work is late after (s)",
        low=1,
        high=86_400,
        help="A batch request that has waited and run for so long goes on as if somebody waited for it.",
    )
    speculation: str = _switch(
        "ngram",
        group="Batching",
        label="Speculation",
        choices=("off", "ngram"),
        help="Guesses that text seen before comes again, and checks several tokens in one step. Exact; made for "
        "answers that quote. Pauses by itself where guesses fail, and while many requests share a step.",
    )
    cuda_graphs: bool = _switch(
        True,
        group="Batching",
        label="CUDA graphs",
        needs=Needs.CUDA_GRAPHS,
        help="On a GPU, decode steps are replayed as recorded graphs, one launch instead of hundreds. Exact. Nothing "
        "happens on a processor.",
    )
    prefix_cache: bool = _switch(
        True,
        group="Caches",
        label="Prefix cache",
        help="Prompt states are kept and used again by any request that begins with the same tokens. Exact.",
    )
    disk_prefix_cache: bool = _switch(
        True,
        group="Caches",
        label="Prefix cache on disk",
        help="Prompt states are kept on disk too, and used again after a restart. Exact.",
    )
    chunk_reuse: bool = _switch(
        False,
        group="Caches",
        label="Document states at any position",
        needs=Needs.SCATTERED_READING,
        help="A document's passage that was read before is not read again where it stands elsewhere in a prompt. Not "
        "exact; see the README for what it does to the answers.",
    )
    chunk_recompute_percent: int = _switch(
        20,
        group="Caches",
        label="Of each passage, read again (%)",
        needs=Needs.SCATTERED_READING,
        low=0,
        high=100,
        help="The first tokens of a passage whose states are used again are computed anew, since it is there that it "
        "misses what stands before it.",
    )
    embedding_cache: bool = _switch(
        True,
        group="Caches",
        label="Embedding cache",
        help="A text that was embedded once is never embedded again, not even after a restart. Exact.",
    )
    answer_cache: bool = _switch(
        True,
        group="Caches",
        label="Answer cache",
        help="The same prompt with the same parameters over the same documents is answered at once. Exact: only for "
        "answers that would come out the same (temperature 0, or a seed).",
    )
    semantic_cache: bool = _switch(
        False,
        group="Caches",
        label="Answers to like questions",
        help="A single question that is worded otherwise but means the same gets the stored answer, and says so. Not "
        "exact; see the README for how often it is wrong. Needs the answer cache, and finds what was kept while it was "
        "on.",
    )
    semantic_threshold_percent: int = _switch(
        95,
        group="Caches",
        label="How like a question must be (%)",
        low=95,
        high=100,
        help="Cosine of the two questions' embeddings.",
    )
    graph_retrieval: bool = _switch(
        True,
        group="Retrieval",
        label="Sparse graph retrieval",
        help="A question walks from what is near, what has its words and what it names over a graph of mentions, and "
        "scores only what it reaches. Off: every chunk is compared with the question.",
    )
    quantization: str = _switch(
        "auto",
        group="Precision",
        label="Weights",
        acts="in the background",
        choices=("auto", "fp32", "bf16", "int8", "mixed", "nf4", "bnb-int8"),
        help="How weights are held. auto: the fastest whose measured loss passes the quality gate. bf16: 16 bits "
        "where the device has them, else fp32. int8 halves the memory read per token; mixed is int8 with the layers "
        "that suffer most kept in 16 bits, found by measuring once per model. nf4 and bnb-int8 are bitsandbytes' "
        "formats: the least memory, slower on a processor.",
    )
    kv_cache: str = _switch(
        "auto",
        group="Precision",
        label="Keys and values",
        needs=Needs.KERNEL_PAGES,
        choices=("auto", "int8"),
        help="int8 halves the memory of every sequence and what long contexts read per token, at a small price in "
        "accuracy (see the README). auto holds them as the model computes.",
    )
    shared_prefix_attention: bool = _switch(
        False,
        group="Attention",
        label="Shared-prefix attention",
        needs=Needs.KERNEL_PAGES,
        help="Pages that several requests of a step have in common are read once for all of them. Exact. Off, since on "
        "processors it was measured to save nothing: a core's own cache holds such pages already.",
    )
    sparse_attention: bool = _switch(
        False,
        group="Attention",
        label="Top-K sparse attention",
        needs=Needs.KERNEL_PAGES,
        help="A decode step reads only the pages of a long context whose keys can matter most. Not exact; see the "
        "README for how often the tokens stay the same.",
    )
    sparse_keep_percent: int = _switch(
        25,
        group="Attention",
        label="Pages read by sparse attention (%)",
        needs=Needs.KERNEL_PAGES,
        low=5,
        high=100,
        help="Of every sequence longer than 16 pages of 16 tokens.",
    )

    def updated(self, changes: dict[str, Any]) -> Switches:
        """Return a copy with `changes` applied.

        Raises:
            InvalidSwitchError: an unknown name, a wrong type or a value out of range; the message lists what is right.
        """
        known = {f.name: f for f in fields(self)}
        checked: dict[str, Any] = {}
        for name, value in changes.items():
            if name not in known:
                raise InvalidSwitchError(f"There is no switch {name!r}. Known: {', '.join(known)}.")
            meta = known[name].metadata
            wanted = type(getattr(self, name))
            if wanted is int and isinstance(value, float) and value.is_integer():
                value = int(value)
            if type(value) is not wanted:
                raise InvalidSwitchError(f"{name} takes {wanted.__name__}, not {value!r}.")
            if meta["choices"] and value not in meta["choices"]:
                raise InvalidSwitchError(f"{name} takes one of {', '.join(meta['choices'])}, not {value!r}.")
            if meta["low"] is not None and not meta["low"] <= value <= meta["high"]:
                raise InvalidSwitchError(f"{name} takes {meta['low']} to {meta['high']}, not {value!r}.")
            checked[name] = value
        return replace(self, **checked)

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name."""
        return asdict(self)


def describe() -> list[dict[str, Any]]:
    """Name, label, help, group, when it acts, choices and range of every switch, in order."""
    return [{"name": f.name, "default": f.default, **f.metadata} for f in fields(Switches)]
