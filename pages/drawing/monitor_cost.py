"""Monitor, cost: what these requests cost and did not cost, and where the machine's money went."""

from __future__ import annotations

import csv
import io
import time

import streamlit as st

from backend.runtime import Runtime
from pages.drawing.charts import Chart, Line, Mark, draw
from pages.drawing.figures import DOLLAR, SECOND, amounts, moment, money, seconds
from pages.drawing.populations import STEPS, Filter
from pages.drawing.tiles import Tile, tiles
from pages.drawing.untrusted import plain

CAUSES = {
    "prefix": "prompts found in the prefix cache", "embedding": "vectors known", "answer": "answers given again",
    "graph": "chunks not looked at", "speculation": "steps saved by guesses",
}  # fmt: skip


def cost(runtime: Runtime, span: int, shown: Filter, tables: bool) -> None:
    """Draw tiles and charts of a range."""
    until = time.time()
    since, step = until - span, STEPS[span]
    queries = runtime.ledger.queries
    own, everybody = queries.sums(since, None, shown.populations), queries.sums(since, None)
    machine = (everybody.cost + everybody.idle_cost) / DOLLAR
    working, idle, mine, avoided = amounts([
        everybody.cost / DOLLAR, everybody.idle_cost / DOLLAR, own.cost / DOLLAR, own.avoided / DOLLAR
    ])  # fmt: skip
    used = everybody.utilization
    bare, loaded = own.per_thousand_out(with_idle=False), everybody.per_thousand_out(with_idle=True)
    tiles(
        Tile("The machine", money(machine), f"{seconds((everybody.compute_ns + everybody.idle_ns) / SECOND)} of it"),
        Tile("Working", working, f"{used:.0%} of its time" if used is not None else "–"),
        Tile("Idle", idle, f"{1 - used:.0%} of its time" if used is not None else "–"),
        Tile("1,000 tokens out, all in", money(loaded) if loaded is not None else "–", "everybody's, with idle time"),
        Tile(f"{shown.name}: cost", mine, f"{own.requests:,} requests"),
        Tile(f"{shown.name}: not spent", avoided, "by caches and guesses; never subtracted"),
        Tile("1,000 tokens out", money(bare) if bare is not None else "–", f"{shown.name}, without idle time"),
        name="Cost in this range",
    )
    marks = [Mark(one.time, one.text) for one in runtime.happenings.between(since, until)]
    own_buckets = queries.buckets(since, None, step, shown.populations)
    whole = queries.buckets(since, None, step)
    times = [bucket.start + step / 2 for bucket in whole]
    left, right = st.columns(2)
    with left:
        lines = [
            Line("paid", times, [b.sums.cost / DOLLAR for b in whole], "bars"),
            Line("idle", times, [b.sums.idle_cost / DOLLAR for b in whole], "bars"),
        ]
        said = f"{plain(working)} for requests, {plain(idle)} idle."
        machine_cost = Chart("The machine's cost", f"$ per {_length(step)}", lines, since, until, marks, said)
        draw(machine_cost, key="cost-machine", table=tables)
    with right:
        own_times = [bucket.start + step / 2 for bucket in own_buckets]
        line = Line("out", own_times, [_per_thousand(b.sums.cost, b.sums.output_tokens) for b in own_buckets], "dots")
        said = "The requests' own share, without idle time."
        own_rate = Chart(f"{shown.name}: cost of 1,000 tokens out", "$", [line], since, until, marks, said)
        draw(own_rate, key="cost-rate", table=tables)
    causes = own.avoided_by_cause
    if own.avoided:
        parts = zip(causes, amounts(value / DOLLAR for value in causes.values()), strict=True)
        listed = " · ".join(f"{CAUSES[name]} {plain(amount)}" for name, amount in parts if causes[name])
        st.markdown(f"**Not spent, by cause**: {listed}")
    price = runtime.prices.current
    st.caption(f"At {plain(money(price.per_hour))} an hour: {plain(price.name)}. Choose another on Settings.")
    st.download_button(
        "Download what is shown (CSV)", lambda: sheet(runtime, span, shown), file_name="tenfold-cost.csv",
        mime="text/csv", key="cost-csv",
    )  # fmt: skip


def sheet(runtime: Runtime, span: int, shown: Filter) -> bytes:
    """The range's buckets as a table for a spreadsheet."""
    step = STEPS[span]
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([
        "start", "requests", "failed", "tokens_in", "tokens_cached", "tokens_out", "compute_seconds", "cost_usd",
        "avoided_usd",
    ])  # fmt: skip
    for bucket in runtime.ledger.queries.buckets(time.time() - span, None, step, shown.populations):
        s = bucket.sums
        writer.writerow([
            moment(bucket.start).isoformat(), s.requests, s.failed, s.prompt_tokens, s.cached_tokens, s.output_tokens,
            f"{s.compute_ns / SECOND:.3f}", f"{s.cost / DOLLAR:.9f}", f"{s.avoided / DOLLAR:.9f}",
        ])  # fmt: skip
    return out.getvalue().encode()


def _per_thousand(cost: int, tokens: int) -> float | None:
    return cost / DOLLAR / tokens * 1000 if tokens else None


def _length(step: int) -> str:
    return f"{step // 3600} h" if step >= 3600 else f"{step // 60} min" if step >= 60 else f"{step} s"
