"""Monitor, live: how long these requests wait, how much is served, and how full the engine and its caches are."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import streamlit as st

from backend.runtime import Runtime
from pages.drawing.charts import Chart, Line, Mark, draw
from pages.drawing.figures import counted, rate, seconds
from pages.drawing.populations import STEPS, Filter
from pages.drawing.tiles import Tile, tiles

if TYPE_CHECKING:
    from backend.metering.sums import Bucket

MOST_SAMPLES = 300
"""Of the engine's state that are drawn."""
SOURCES = {"People": "console", "API": "api", "Jobs": "job", "Lab": "lab"}


def live(runtime: Runtime, span: int, shown: Filter, tables: bool) -> None:
    """Draw tiles and charts of a range."""
    until = time.time()
    since, step = until - span, STEPS[span]
    queries = runtime.ledger.queries
    sums = queries.sums(since, None, shown.populations)
    before = queries.sums(since - span, since, shown.populations)
    first = queries.latency(since, None, shown.populations, "ttft", shown.states)
    whole = queries.latency(since, None, shown.populations, "latency", shown.states)
    token = queries.latency(since, None, shown.populations, "tpot", shown.states)
    again = shown.name == "Given again"
    requests, earlier = (sums.repeated, before.repeated) if again else (sums.requests, before.requests)
    waiting = waiting_now(runtime, shown)
    read = sums.prompt_tokens
    embedded = sums.embedded_tokens + sums.reused_tokens
    vectors = shown.name == "Embeddings"
    hit, of = (sums.reused_tokens, embedded) if vectors else (sums.cached_tokens, read)
    tiles(
        Tile("Requests", f"{requests:,}", f"{earlier:,} in the {_length(span)} before"),
        Tile("First token, median · p95", _two(first), _waits(waiting)),
        Tile("Whole answer, median · p95", _two(whole), f"of {whole.count:,}" if whole else "no answer yet"),
        Tile("Next token, median · p95", _two(token), "between two tokens of an answer"),
        Tile("Tokens in · out", _tokens(sums, shown), f"{rate(sums.output_tokens / span)} out over the range"),
        Tile("Cache hits", f"{hit / of:.0%}" if of else "–", "vectors known" if vectors else "of prompts"),
        Tile("Failed · cancelled", f"{sums.failed:,} · {sums.cancelled:,}", f"{before.failed:,} failed before"),
        Tile("KV cache in use", _kv(runtime), _accepted(sums.drafted_tokens, sums.accepted_tokens)),
        name=f"{shown.name}, the last {_length(span)}",
    )
    marks = [Mark(one.time, one.text) for one in runtime.happenings.between(since, until)]
    left, right = st.columns(2)
    buckets = queries.buckets(since, None, step, shown.populations)
    times = [bucket.start + step / 2 for bucket in buckets]
    with left:
        percentiles = queries.latency_buckets(since, None, step, shown.populations, "ttft", shown.states)
        lines = [
            Line(name, [at + step / 2 for at, _ in percentiles],
                 [getattr(value, name) * 1000 if value else None for _, value in percentiles], "dots")
            for name in ("p50", "p95", "p99")
        ]  # fmt: skip
        said = f"Median {seconds(first.p50)}, p99 {seconds(first.p99)}." if first else "No first token in this range."
        draw(Chart("Time to first token", "ms", lines, since, until, marks, said), key="live-ttft", table=tables)
    with right:
        draw(
            Chart("Tokens", "tokens/s", token_lines(buckets, times, again), since, until, marks,
                  f"{sums.output_tokens:,} written, {read:,} read, {sums.cached_tokens:,} of them from the cache; "
                  "counted when a request ends."),
            key="live-tokens", table=tables,
        )  # fmt: skip
    with left:
        ended = [
            Line("repeated" if again else "answered", times, [_answered(b, again) for b in buckets], "bars"),
            Line("failed", times, [0 if again else b.sums.failed for b in buckets], "bars"),
            Line("cancelled", times, [0 if again else b.sums.cancelled for b in buckets], "bars"),
        ]
        draw(
            Chart("Requests ended", f"per {_length(step)}", ended, since, until, marks,
                  f"{counted(requests, 'request')}, {sums.failed:,} failed."),
            key="live-requests", table=tables,
        )  # fmt: skip
    with right:
        engine_load(runtime, span, since, until, tables)


def engine_load(runtime: Runtime, span: int, since: float, until: float, tables: bool) -> None:
    """Requests in the engine, of everybody, as it says itself."""
    every = runtime.series.window(min(span, 3600))
    samples = every[:: max(len(every) // MOST_SAMPLES, 1)]
    at = [sample.time for sample in samples]
    lines = [
        Line("running", at, [s.stats.running for s in samples], "steps"),
        Line("waiting", at, [s.stats.waiting_realtime + s.stats.waiting_batch for s in samples], "steps"),
    ]
    most = max((s.stats.running for s in every), default=0)
    said = f"At most {most} at once." + (" Known for the last hour only." if span > 3600 else "")
    draw(
        Chart("In the engine, everybody's", "requests", lines, max(since, until - 3600), until, (), said),
        key="live-engine", table=tables,
    )  # fmt: skip


def waiting_now(runtime: Runtime, shown: Filter) -> list[float]:
    """Seconds that requests without a first token have waited so far, the longest first."""
    source, now = SOURCES.get(shown.name), time.time()
    active = runtime.generations.active.values()
    ages = [now - g.created for g in active if g.request.source == source and not g.pieces and not g.ended]
    return sorted(ages, reverse=True)


def token_lines(buckets: list[Bucket], times: list[float], again: bool) -> list[Line]:
    """Tokens a second over time: of answers given again, or of all others."""
    if again:
        return [Line("repeated", times, [b.per_second(b.sums.repeated_output_tokens) for b in buckets], "area")]
    return [
        Line("in", times, [b.per_second(b.sums.prompt_tokens) for b in buckets]),
        Line("cached", times, [b.per_second(b.sums.cached_tokens) for b in buckets]),
        Line("out", times, [b.per_second(b.sums.output_tokens) for b in buckets]),
    ]


def _answered(bucket: Bucket, again: bool) -> int:
    sums = bucket.sums
    return sums.repeated if again else sums.requests - sums.failed - sums.cancelled - sums.repeated


def _two(found: object) -> str:
    p50, p95 = getattr(found, "p50", None), getattr(found, "p95", None)
    return f"{seconds(p50)} · {seconds(p95)}" if found is not None else "–"


def _waits(waiting: list[float]) -> str:
    return f"{len(waiting)} waiting, the longest {seconds(waiting[0])}" if waiting else "nobody is waiting"


def _tokens(sums: object, shown: Filter) -> str:
    if shown.name == "Embeddings":
        return f"{getattr(sums, 'embedded_tokens', 0):,} · –"
    if shown.name == "Given again":
        return f"{getattr(sums, 'repeated_prompt_tokens', 0):,} · {getattr(sums, 'repeated_output_tokens', 0):,}"
    return f"{getattr(sums, 'prompt_tokens', 0):,} · {getattr(sums, 'output_tokens', 0):,}"


def _kv(runtime: Runtime) -> str:
    stats = runtime.engine.stats
    if stats is None:
        return "–"
    blocks = stats.kv_free + stats.kv_cached + stats.kv_used
    return f"{stats.kv_used / blocks:.0%}" if blocks else "–"


def _accepted(drafted: int, accepted: int) -> str:
    return f"{accepted / drafted:.0%} of guessed tokens right" if drafted else "no guesses in this range"


def _length(span: int) -> str:
    for unit, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if span >= unit:
            number = span // unit
            return name if number == 1 else f"{number} {name}s"
    return f"{span} seconds"
