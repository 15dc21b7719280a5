"""What the engine does now, how long people wait, and what it costs."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import streamlit as st

from backend.access.caller import Role
from backend.runtime import Runtime, current
from pages.caller import current_caller
from pages.drawing.charts import AMBER, BLUE, TEAL, area, chart, dots, draw, steps
from pages.drawing.figures import money, rate, seconds
from pages.drawing.untrusted import plain
from pages.navigation import page

if TYPE_CHECKING:
    from backend.metering.totals import Totals

REFRESH = 2.0
OWN = "My own price"
WINDOWS = {"5 min": 300, "30 min": 1800, "1 h": 3600}


def live(runtime: Runtime, span: int) -> None:
    """Figures and charts from real requests."""
    rows = runtime.ledger.window(span)
    totals = runtime.ledger.totals()
    stats = runtime.engine.stats
    bucket = max(span / 60, 2.0)
    throughput = runtime.series.throughput(span, bucket)
    ttft = runtime.ledger.first_token(rows)
    waiting = stats.waiting_realtime + stats.waiting_batch if stats else 0
    asked = totals.prompt_tokens
    figures: list[tuple[str, str, str | None]] = [
        ("Tokens/s now", rate(throughput[-1][1] if throughput else 0.0).removesuffix(" tok/s"), None),
        ("Running · queued", f"{stats.running if stats else 0} · {waiting}", None),
        ("Cost so far", money(totals.cost), "The requests' share of the machine's time, since the first request."),
        ("Saved by caches", money(totals.saved),
         "What the tokens found in caches would have cost; never subtracted from the cost."),
        ("First token p50", seconds(ttft.p50 if ttft else None), "Arrival to first token, in this window."),
        ("First token p95", seconds(ttft.p95 if ttft else None), None),
        ("First token p99", seconds(ttft.p99 if ttft else None), f"Over {ttft.count if ttft else 0} requests."),
        ("Cache hits", f"{totals.cached_tokens / asked:.0%}" if asked else "–", "Found in the prefix cache."),
    ]
    for start in (0, 4):
        for column, (label, value, text) in zip(st.columns(4), figures[start : start + 4], strict=True):
            column.metric(label, value, border=True, help=text)
    left, right = st.columns(2)
    generated = area([t for t, _ in throughput], [v for _, v in throughput], color=TEAL, name="out")
    with left:
        draw(chart("Tokens generated per second", "tokens/s", generated, span=span), key="throughput")
    first = [(r.finished, r.ttft * 1000) for r in rows if r.ttft is not None]
    requests = dots([t for t, _ in first], [v for _, v in first], color=BLUE, name="request")
    with right:
        draw(chart("Time to first token of each request", "ms", requests, span=span), key="ttft")
    samples = runtime.series.window(span)
    times = [s.time for s in samples]
    running = steps(times, [s.stats.running for s in samples], color=TEAL, name="running")
    queued = steps(
        times, [s.stats.waiting_realtime + s.stats.waiting_batch for s in samples], color=AMBER, name="queued"
    )
    with left:
        draw(chart("Requests in the engine", "requests", running, queued, span=span), key="queue")
    spent = list(itertools.accumulate(r.cost for r in rows))
    cost = steps([r.finished for r in rows], spent, color=BLUE, name="cost")
    with right:
        draw(chart("Cost of requests in this window", "US dollars", cost, span=span), key="cost")
    account(runtime, totals)


def account(runtime: Runtime, totals: Totals) -> None:
    """Where the machine's money went since the engine started."""
    stats = runtime.engine.stats
    if stats is None:
        return
    per_hour = runtime.prices.current.per_hour
    uptime = max(stats.uptime, stats.busy_seconds)
    busy, idle = stats.busy_seconds * per_hour / 3600, (uptime - stats.busy_seconds) * per_hour / 3600
    thousands = stats.output_tokens / 1000
    st.markdown("##### This engine's run")
    with st.container(horizontal=True):
        st.metric("Working", money(busy), help=seconds(stats.busy_seconds), border=True)
        st.metric("Idle", money(idle), help=seconds(uptime - stats.busy_seconds), border=True)
        st.metric("Per 1K tokens out, working", money(busy / thousands) if thousands else "–", border=True)
        st.metric("Per 1K tokens out, with idle", money((busy + idle) / thousands) if thousands else "–", border=True)
        st.metric("Requests recorded", f"{totals.requests:.0f}", border=True)
    info = runtime.engine.info
    if info is not None:
        by_itself = " (auto)" if runtime.engine.switches.quantization == "auto" else ""
        st.caption(
            f"Weights: {info.variant}{by_itself} · products: {plain(info.products)} · attention: "
            f"{plain(info.attention)} · {plain(info.device)}. What was tried, and how it did, is on Optimizations."
        )


def price(runtime: Runtime) -> None:
    """Which machine the money is counted for."""
    chosen = runtime.prices.current
    said = f"Price: {plain(money(chosen.per_hour))} per hour"
    if runtime.settings.price_per_hour is not None:
        st.caption(f"{said}, from `TENFOLD_PRICE_PER_HOUR`.")
        return
    if not current_caller().role.covers(Role.ADMIN):
        st.caption(f"{said}, as of: {plain(chosen.name)}.")
        return
    known = runtime.prices.catalogue
    with st.popover(said, icon=":material/payments:"):
        names = [*(p.name for p in known), OWN]
        index = next((i for i, p in enumerate(known) if p == chosen), len(known))
        name = st.selectbox("Machine", names, index=index)
        value = next((p.per_hour for p in known if p.name == name), chosen.per_hour)
        own = st.number_input(
            "US dollars per hour", 0.0, 1000.0, value, 0.01, disabled=name != OWN, key=f"price-{name}"
        )
        st.caption("Round figures to start from, not quotations. New requests are counted at the new price.")
        if st.button("Use this price", type="primary"):
            runtime.prices.choose(name or OWN, own)
            st.rerun()


@st.fragment(run_every=REFRESH)
def empty(runtime: Runtime) -> None:
    """What to do when there is nothing yet."""
    if runtime.ledger.totals().requests:
        st.rerun()
    with st.container(border=True):
        st.markdown("#### Nothing to show yet")
        if current_caller().role.covers(Role.USER):
            st.write("Charts begin with the first request. Ask something on the Chat page, or call the API.")
            st.page_link(page("chat"), label="Go to Chat")
        else:
            st.write("Charts begin with the first request.")


def main() -> None:
    """Draw the page."""
    runtime = current()
    st.title("Dashboard")
    with st.container(horizontal=True, vertical_alignment="center"):
        window = st.segmented_control(
            "Window", list(WINDOWS), default="5 min", label_visibility="collapsed", key="window",
            persist_state="session",
        )
        price(runtime)
    if not runtime.ledger.totals().requests:
        empty(runtime)
        return
    span = WINDOWS[window or "5 min"]
    st.fragment(run_every=REFRESH)(lambda: live(runtime, span))()


main()
