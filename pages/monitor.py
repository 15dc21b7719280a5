"""What is served now, each request, and what it costs."""

from __future__ import annotations

import time

import streamlit as st

from backend.runtime import Runtime, current
from pages.drawing.acts import refusal
from pages.drawing.monitor_cost import cost
from pages.drawing.monitor_live import live
from pages.drawing.monitor_requests import request_table
from pages.drawing.populations import FILTERS, RANGES
from pages.navigation import page

VIEWS = ("Live", "Requests", "Cost")
REFRESH, PATIENT_REFRESH = 2.0, 15.0
"""Seconds between two looks, for ranges to an hour and for longer ones."""


@st.fragment(run_every=REFRESH)
def empty(runtime: Runtime) -> None:
    """What to do when there is nothing yet."""
    if runtime.ledger.totals().requests:
        st.rerun()
    with st.container(border=True):
        st.markdown("#### Nothing to show yet")
        st.write("Charts begin with the first request: ask something on Chat, or call the API.")
        st.page_link(page("overview"), label="Begin on Overview")


def choices(runtime: Runtime) -> tuple[str, str, str, bool]:
    """The view, the range and the requests that are shown, and whether figures stand in tables."""
    with st.container(horizontal=True, vertical_alignment="center"):
        view = st.segmented_control(
            "View", VIEWS, default="Live", label_visibility="collapsed", key="monitor-view", persist_state="session",
            required=True,
        )  # fmt: skip
        span = st.segmented_control(
            "Range", list(RANGES), default="1 h", label_visibility="collapsed", key="monitor-range",
            persist_state="session", required=True,
        )  # fmt: skip
        chosen = st.selectbox(
            "Requests of", list(FILTERS), index=list(FILTERS).index(busiest(runtime)), key="monitor-filter",
            label_visibility="collapsed", persist_state="session", width=180,
        )  # fmt: skip
        tables = st.toggle("Tables", key="monitor-tables", help="Show the charts' figures as tables.")
    return view or "Live", span or "1 h", chosen or "People", tables


def busiest(runtime: Runtime) -> str:
    """Where most requests of the last day came from: what is shown first."""
    since = time.time() - 86400
    counts = {
        name: runtime.ledger.queries.sums(since, None, FILTERS[name].populations).requests
        for name in ("People", "API", "Jobs")
    }
    return max(counts, key=lambda name: counts[name])


def main() -> None:
    """Draw the page."""
    runtime = current()
    refusal()
    if not runtime.ledger.totals().requests:
        empty(runtime)
        return
    view, span, chosen, tables = choices(runtime)
    seconds, shown = RANGES[span], FILTERS[chosen]
    every = REFRESH if seconds <= 3600 else PATIENT_REFRESH
    if view == "Live":
        st.fragment(run_every=every)(lambda: live(runtime, seconds, shown, tables))()
    elif view == "Requests":
        request_table(runtime, seconds, shown, every)
    else:
        st.fragment(run_every=every)(lambda: cost(runtime, seconds, shown, tables))()


main()
