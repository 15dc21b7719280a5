"""Switch every optimization on and off while the model serves, and see what that does."""

from __future__ import annotations

import time
from typing import Any

import streamlit as st

from backend.runtime import Runtime, current
from pages.drawing.acts import refusal
from pages.drawing.figures import DOLLAR, money, rate, seconds, when
from pages.drawing.frame import strip
from pages.drawing.populations import SERVED
from pages.drawing.precision import precision
from pages.drawing.presets import cards, changes, measuring, price_note
from pages.drawing.switch import draw_switch
from pages.drawing.untrusted import plain

WINDOW = 300.0
"""Seconds that the figures in view are of."""
RECENT = 7 * 86400.0
MEASURING = "The presets are being measured"


def figures(runtime: Runtime) -> None:
    """What the switches do, in a strip that stays in view."""

    @st.fragment(run_every=2.0)
    def live() -> None:
        since, queries = time.time() - WINDOW, runtime.ledger.queries
        sums, first = queries.sums(since, None, SERVED), queries.latency(since, None, SERVED, "ttft")
        throughput = runtime.series.throughput(10.0, 10.0)
        stats = runtime.engine.stats
        strip({
            "Tokens/s now": rate(throughput[-1][1] if throughput else 0.0).removesuffix(" tok/s"),
            "Running · waiting": f"{stats.running if stats else 0} · "
            f"{stats.waiting_realtime + stats.waiting_batch if stats else 0}",
            "First token, median": seconds(first.p50 if first else None),
            "First token, p95": seconds(first.p95 if first else None),
            "Requests": f"{sums.requests:,}",
            "Their cost": money(sums.cost / DOLLAR),
        }, "Requests of the last 5 minutes")  # fmt: skip

    live()


def status(runtime: Runtime) -> None:
    """What is on its way, and what could not be put in force."""
    applied = runtime.engine.applied
    loading = applied is not None and (applied.loading is not None or applied.switches != runtime.engine.switches)
    looking = _looking(runtime)

    @st.fragment(run_every=0.5 if loading else 2.0 if looking else None)
    def line() -> None:
        latest = runtime.engine.applied
        if latest is None:
            st.caption("The model is not loaded yet; changes act as soon as it is.")
            return
        if loading and latest.loading is None and latest.switches == runtime.engine.switches:
            st.rerun()
        if looking and not _looking(runtime):
            st.rerun()
        if latest.loading:
            st.progress(
                latest.progress,
                text=f"{latest.loading} weights are being loaded; requests go on with {latest.variant} meanwhile.",
            )
        if latest.error:
            st.error(plain(latest.error))

    line()


def _looking(runtime: Runtime) -> bool:
    info = runtime.engine.info
    return bool(info and info.precision and info.precision.state == "measuring")


def switches(runtime: Runtime) -> None:
    """Every switch that acts on this machine, in groups."""
    now, default = runtime.switchboard.own.as_dict(), {a["name"]: a["default"] for a in runtime.switchboard.about}
    ineffective = runtime.engine.info.ineffective if runtime.engine.info else {}
    groups: dict[str, list[dict[str, Any]]] = {}
    for about in runtime.switchboard.about:
        if not (about["name"] in ineffective and about["needs"] is not None):  # all of it, not one of its values
            groups.setdefault(about["group"], []).append(about)
    for group, members in groups.items():
        changed = sum(now[about["name"]] != default[about["name"]] for about in members)
        said = f"{group} · {', '.join(about['label'] for about in members)}"
        with st.expander(said + (f" · **{changed} changed**" if changed else ""), key=f"group-{group}"):
            for about in members:
                draw_switch(runtime, about, now[about["name"]], ineffective.get(about["name"]))
            if group == "Precision":
                precision(runtime)


def machine(runtime: Runtime) -> None:
    """How it is computed here, and what is not for this machine."""
    info = runtime.engine.info
    if info is None:
        return
    with st.expander("How it is computed on this machine", key="group-machine"):
        applied = runtime.engine.applied
        st.markdown(
            f"**{plain(runtime.settings.served_model)}** in **{applied.variant if applied else info.variant}** on "
            f"{plain(info.device)} · products: {plain(info.products)} · attention: {plain(info.attention)}"
        )
        if len(info.tried_products) > 1:
            tried = " · ".join(
                f"{plain(one.label)} {'cannot be used' if one.problem else f'{one.wide_ms:.0f} ms'}"
                for one in info.tried_products
            )
            st.caption(f"Ways to multiply, tried at start on the same piece of work: {tried}")
        for about in runtime.switchboard.about:
            if about["name"] in info.ineffective and about["needs"] is not None:
                st.caption(f"**{about['label']}** is left out: {plain(info.ineffective[about['name']])}")


def history(runtime: Runtime) -> None:
    """What was changed lately, by whom."""
    until = time.time()
    found = runtime.happenings.between(until - RECENT, until)
    with st.expander("What was changed in the last 7 days", key="group-history"):
        if not found:
            st.caption("Nothing yet. Every change of a switch will be listed here, with who made it.")
            return
        names = {key.id: key.name for key in runtime.access.keys.latest()}
        st.dataframe(
            [
                {"when": when(one.time), "what": one.text, "by": names.get(one.who, one.who or "this machine")}
                for one in found
            ],
            hide_index=True, width="stretch", key="history",
        )  # fmt: skip


def main() -> None:
    """Draw the page."""
    runtime = current()
    figures(runtime)
    refusal()
    status(runtime)
    if runtime.switchboard.borrowed:
        labels = {about["name"]: about["label"] for about in runtime.switchboard.about}
        course = runtime.worth.course
        what = f"{labels[course.switch]} is being measured on your traffic" if course.running else MEASURING
        st.info(f"{what}. What is chosen below comes back afterwards; a change ends it.")
    cards(runtime)
    st.caption(price_note(runtime))
    changes(runtime)
    measuring(runtime)
    switches(runtime)
    machine(runtime)
    history(runtime)


main()
