"""What "auto" weights come to on this machine, and the figures that speak for it."""

from __future__ import annotations

import streamlit as st

from backend.runtime import Runtime
from pages.drawing.untrusted import plain

GOING_ON = ("waiting", "measuring")


def precision(runtime: Runtime) -> None:
    """Draw it, and again while it is being measured."""
    info = runtime.engine.info
    state = info.precision.state if info is not None and info.precision is not None else ""
    going_on = state == "measuring" or (state == "waiting" and runtime.engine.switches.quantization == "auto")

    @st.fragment(run_every=1.0 if going_on else None)
    def report() -> None:
        latest = runtime.engine.info
        if latest is None or latest.precision is None:
            return
        if going_on and latest.precision.state not in GOING_ON:
            st.rerun()  # what serves is said elsewhere on the page
        _draw(runtime)

    report()


def _draw(runtime: Runtime) -> None:
    info = runtime.engine.info
    if info is None or info.precision is None:
        return
    report = info.precision
    if report.state == "waiting" and runtime.engine.switches.quantization != "auto":
        st.caption("auto is the fastest weights that pass the quality gate; they are looked for once it is chosen.")
    elif report.state in GOING_ON:
        st.caption(
            f"**auto is {report.chosen} for now.** Looking in the background for the fastest weights inside the gate "
            f"({plain(report.gate)}): {plain(report.detail) or 'about to begin'} …"
        )
    elif report.state == "measured":
        st.caption(
            f"**auto is {report.chosen}**, the fastest inside the gate ({plain(report.gate)}, by their means) of those "
            "measured against full precision on this machine."
            + (" mixed, slower by its nature, was not needed." if report.chosen == "int8" else "")
        )
    else:
        st.caption(f"**auto is {report.chosen}.** {plain(report.detail)}")
    if report.measured:
        st.table(
            {
                "weights": [row.variant for row in report.measured],
                "speed": [f"{row.speed:.2f} ×" if row.speed else "–" for row in report.measured],
                "perplexity": [
                    f"{row.perplexity_change:+.2%} ± {1.96 * row.perplexity_error:.2%}" for row in report.measured
                ],
                "next token the same": [
                    f"{row.same_token:.1%} ({row.same_low:.1%} to {row.same_high:.1%})" for row in report.measured
                ],
                "gate": ["inside" if row.inside else "outside" for row in report.measured],
            }
        )
