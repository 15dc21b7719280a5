"""How an entry of the ledger is read under the labels of vLLM, of OpenTelemetry and of our own. Knows no names."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from backend.metering.entry import Entry
from backend.metering.metric_family import ENGINE, Point, ValuesOf
from backend.store.tables.usage import Outcome, Population, State, UsageKind

PROVIDER = "tenfold"
OPERATIONS = {UsageKind.GENERATE: "generate_content", UsageKind.EMBED: "embeddings"}
"""A chat and a continued text are one kind of entry, for which the convention has this common name."""
ERRORS = {State.FAILED: "failed", State.CANCELLED: "cancelled"}


def generated(entry: Entry) -> bool:
    """Whether it is a request for text."""
    return entry.kind is UsageKind.GENERATE


def computed(entry: Entry) -> bool:
    """Whether its tokens went through the language model: not those of an answer that was given again."""
    return generated(entry) and entry.state is not State.CACHED


def served(entry: Entry) -> bool:
    """Whether its times say how long people wait for the model: not those of what failed or was given up."""
    return generated(entry) and entry.state is State.OK and entry.outcome is not Outcome.REPLY


def whole(value: Callable[[Entry], int | None], of: Callable[[Entry], bool]) -> ValuesOf:
    """A value of an entry under vLLM's labels."""

    def read(entry: Entry) -> Iterable[Point]:
        number = value(entry) if of(entry) else None
        return () if number is None else (((entry.model, ENGINE), number),)

    return read


def asked(value: Callable[[Entry], int], of: Callable[[Entry], bool] = lambda _: True) -> ValuesOf:
    """A value of a request under our own labels; idle time is none."""

    def read(entry: Entry) -> Iterable[Point]:
        counts = entry.population is not Population.IDLE and of(entry)
        return (((entry.source, entry.model, entry.path), value(entry)),) if counts else ()

    return read


def idle(value: Callable[[Entry], int]) -> ValuesOf:
    """A value of idle time, which has no labels."""
    return lambda entry: (((), value(entry)),) if entry.population is Population.IDLE else ()


def otel(value: Callable[[Entry], int | None], *, errors: bool = False) -> ValuesOf:
    """A value of a request under OpenTelemetry's labels; of those that ended in an error only with `errors`."""

    def read(entry: Entry) -> Iterable[Point]:
        operation, number = OPERATIONS.get(entry.kind), value(entry)
        if operation is None or number is None or (entry.state in ERRORS and not errors):
            return ()
        error = (ERRORS.get(entry.state, ""),) if errors else ()
        return (((operation, PROVIDER, entry.model, entry.model, *error), number),)

    return read


def otel_tokens(entry: Entry) -> Iterable[Point]:
    """Tokens in and out under OpenTelemetry's labels."""
    operation = OPERATIONS.get(entry.kind)
    if operation is None:
        return
    labels = (operation, PROVIDER, entry.model, entry.model)
    yield (*labels, "input"), entry.prompt_tokens
    if generated(entry):
        yield (*labels, "output"), entry.output_tokens


def tokens_by_source(entry: Entry) -> Iterable[Point]:
    """Prompt tokens that were computed, and those that a cache gave, as vLLM calls them."""
    if computed(entry):
        yield (entry.model, ENGINE, "local_compute"), entry.prompt_tokens - entry.cached_tokens
        yield (entry.model, ENGINE, "local_cache_hit"), entry.cached_tokens


def repeated(entry: Entry) -> Iterable[Point]:
    """Tokens of an answer that was given again."""
    if entry.state is State.CACHED:
        yield (entry.model, "input"), entry.prompt_tokens
        yield (entry.model, "output"), entry.output_tokens


def avoided(entry: Entry) -> Iterable[Point]:
    """Nano-dollars that were not spent, by cause; what was lost is none of them."""
    for cause in ("prefix", "embedding", "answer", "graph", "speculation"):
        if (value := getattr(entry, f"avoided_{cause}")) > 0:
            yield (entry.source, entry.model, cause), value


def by_phase(entry: Entry) -> Iterable[Point]:
    """The cost of reading and that of writing, which are its cost to the last nano-dollar."""
    if generated(entry) and entry.compute_ns:
        prompt = entry.cost * entry.prefill_ns // entry.compute_ns
        yield (entry.model, "prompt"), prompt
        yield (entry.model, "generation"), entry.cost - prompt


def ended(entry: Entry) -> Iterable[Point]:
    """That a request ended, and how."""
    if entry.population is not Population.IDLE:
        yield (entry.source, entry.model, entry.path, entry.state.value), 1
