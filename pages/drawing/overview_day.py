"""Overview's day: four tiles, the cost of each hour beside Baseline's, and what happened."""

from __future__ import annotations

import calendar
from datetime import datetime, timedelta

import streamlit as st

from backend.access.caller import Role
from backend.runtime import Runtime
from pages.caller import current_caller
from pages.drawing.charts import Chart, Line, Mark, draw
from pages.drawing.figures import DOLLAR, SECOND, counted, moment, money, seconds, when
from pages.drawing.monitor_live import waiting_now
from pages.drawing.populations import FILTERS, SERVED
from pages.drawing.tiles import Tile
from pages.drawing.tiles import tiles as draw_tiles
from pages.drawing.untrusted import plain
from pages.navigation import page

HOUR, DAY = 3600, 86400
LISTED = 8
BADGES = {
    "crash": ("red", "crash"), "refused": ("orange", "refused"), "budget": ("orange", "budget"),
    "unstored": ("orange", "ledger"),
    "loaded": ("blue", "weights"), "measured": ("blue", "measured"), "ready": ("green", "ready"),
}  # fmt: skip
"""By kind of what happened."""


def tiles(runtime: Runtime, now: float) -> None:
    """Cost, requests, waits of people and utilization of today, each with its hours."""
    queries, here = runtime.ledger.queries, moment(now)
    midnight = here.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
    today, served = queries.sums(midnight, None), queries.sums(midnight, None, SERVED)
    hours = queries.buckets(now - DAY, None, HOUR)
    served_hours = queries.buckets(now - DAY, None, HOUR, SERVED)
    waits = queries.latency_buckets(now - DAY, None, HOUR, ("people",), "ttft")
    wait = queries.latency(midnight, None, ("people",), "ttft")
    waiting = waiting_now(runtime, FILTERS["People"])
    spent, month = money((today.cost + today.idle_cost) / DOLLAR), money(forecast(runtime, here))
    used = today.utilization
    longest = max([wait.p95 if wait else 0.0, *waiting])
    draw_tiles(
        Tile(
            "Cost today", spent, f"{month} this month at this rate",
            "The machine's whole time today, idle time too, at its price.",
            [float(b.sums.cost + b.sums.idle_cost) for b in hours],
        ),
        Tile(
            "Requests today", f"{served.requests:,}", f"{served.failed:,} failed", "Of people, programs and jobs.",
            [float(b.sums.requests) for b in served_hours],
        ),
        Tile(
            "People wait, p95", seconds(longest) if wait or waiting else "–",
            f"{len(waiting)} waiting now" if waiting else "nobody is waiting",
            "Arrival to first token today; those who still wait count.",
            [value.p95 if value else 0.0 for _, value in waits],
        ),
        Tile(
            "Utilization today", f"{used:.1%}" if used is not None else "–", "of the machine's time",
            "Time in which the engine computed something.", [b.sums.utilization or 0.0 for b in hours],
        ),
        name="Today",
    )  # fmt: skip


def forecast(runtime: Runtime, here: datetime) -> float:
    """US dollars of the whole month: what was spent, and for the rest the rate of the last 7 days.

    The rate counts the time in which the server ran.
    """
    queries = runtime.ledger.queries
    first = here.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    days = calendar.monthrange(here.year, here.month)[1]
    end = first + timedelta(days=days)
    spent = queries.sums(first.timestamp(), None)
    lately = queries.sums(max(here.timestamp() - 7 * DAY, runtime.started), None)
    time_lately = (lately.compute_ns + lately.idle_ns) / SECOND
    rate = (lately.cost + lately.idle_cost) / DOLLAR / time_lately if time_lately else 0.0
    return (spent.cost + spent.idle_cost) / DOLLAR + rate * (end - here).total_seconds()


def cost_per_hour(runtime: Runtime, now: float) -> None:
    """What each hour's requests cost, and what they would have under Baseline."""
    baseline, per_hour = runtime.presets.figures().get("Baseline"), runtime.prices.current.per_hour
    since = now - DAY
    buckets = runtime.ledger.queries.buckets(since, None, HOUR, SERVED)
    at = [bucket.start + HOUR / 2 for bucket in buckets]
    lines = [Line("paid", at, [b.sums.cost / DOLLAR for b in buckets], "bars")]
    paid = sum(b.sums.cost for b in buckets) / DOLLAR
    said = f"Paid for requests in these hours: {plain(money(paid))}."
    if baseline is not None:
        read = [b.sums.prompt_tokens + b.sums.repeated_prompt_tokens for b in buckets]
        written = [b.sums.output_tokens + b.sums.repeated_output_tokens for b in buckets]
        dear = [
            baseline.seconds_for(r, w).mean * per_hour / HOUR for r, w in zip(read, written, strict=True)
        ]
        lines.append(Line("Baseline", at, dear, "bars"))
        said += f" Baseline would have cost {plain(money(sum(dear)))}."
    marks = [Mark(one.time, one.text) for one in runtime.happenings.between(since, now) if one.kind == "switches"]
    if marks:
        said += f" ◆ marks a change of switches ({len(marks)})."
    draw(
        Chart("Cost of requests per hour", "$ per hour", lines, since, now, marks, said, stacked=False),
        key="cost-per-hour", height=280,
    )  # fmt: skip


def happened(runtime: Runtime, now: float) -> None:
    """Crashes, failed requests, loads and changes of the last 7 days."""
    st.markdown("##### What happened in the last 7 days")
    since = now - 7 * DAY
    failed = runtime.ledger.queries.sums(since, None, SERVED).failed
    if failed:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f":red-badge[failed] {counted(failed, 'request')} ended in an error.")
            st.page_link(page("monitor"), label="See which on Monitor")
    owns = current_caller().role.covers(Role.ADMIN)  # who has keys, and what they spend, is nobody else's business
    found = [one for one in runtime.happenings.between(since, now) if owns or str(one.kind) != "budget"]
    for one in found[:LISTED]:
        color, word = BADGES.get(str(one.kind), ("gray", str(one.kind)))
        st.markdown(f":{color}-badge[{word}] {plain(one.text)} · {when(one.time)}")
    if len(found) > LISTED:
        st.caption(f"{len(found) - LISTED} more are listed on Optimize.")
    if not failed and not found:
        st.caption("Nothing yet.")
