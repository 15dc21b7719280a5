"""Switch every optimization on and off while the model serves."""

from __future__ import annotations

from typing import Any

import streamlit as st

from backend.runtime import Runtime, current
from pages.drawing.precision import precision
from pages.drawing.untrusted import plain

PRESET_HELP = {
    "Baseline": "One request at a time, full precision, no caches: what serving costs without any of this.",
    "Balanced": "Batching, caches and speculation, all exact, and the fastest weights that pass the quality gate.",
    "Max savings": "8-bit weights, whatever the gate says, and larger batches.",
}

MOST_SEGMENTS = 3
"""Choices that fit beside a text; more stand in a line of their own."""


def change(runtime: Runtime, name: str, key: str, drawn: Any) -> None:
    """Apply a widget's new value.

    A page that redraws itself may hear of a widget that is gone, once more with the value it was drawn with: nobody
    pressed that, and it would undo what was pressed since.
    """
    value: Any = st.session_state[key]
    if value is not None and value != drawn:
        runtime.switchboard.change({name: value})


def presets(runtime: Runtime) -> None:
    """Three ready states."""
    now = runtime.engine.switches
    ready = runtime.switchboard.presets
    for column, (name, switches) in zip(st.columns(len(ready)), ready.items(), strict=True):
        with column.container(border=True, height="stretch"):
            active = switches == now
            st.markdown(f"**{name}**" + (" :green-badge[in force]" if active else ""))
            st.caption(PRESET_HELP[name])
            if st.button("Use", key=f"preset-{name}", disabled=active):
                runtime.switchboard.change(switches.as_dict())
                st.rerun()


def status(runtime: Runtime) -> None:
    """Which weights serve, and which are on their way."""
    applied = runtime.engine.applied
    loading = applied is not None and (applied.loading is not None or applied.switches != runtime.engine.switches)
    info = runtime.engine.info
    measuring = bool(info and info.precision and info.precision.state == "measuring")

    @st.fragment(run_every=0.5 if loading else 2.0 if measuring else None)
    def line() -> None:
        latest = runtime.engine.applied
        if latest is None:
            st.caption("The model is not loaded yet; changes act as soon as it is.")
            return
        if loading and latest.loading is None and latest.switches == runtime.engine.switches:
            st.rerun()
        info = runtime.engine.info
        if measuring and info and info.precision and info.precision.state != "measuring":
            st.rerun()
        where = f" on {info.device} · products: {info.products} · attention: {info.attention}" if info else ""
        st.markdown(f"Serving **{plain(runtime.settings.served_model)}** in **{latest.variant}**{where}")
        if info and len(info.tried_products) > 1:
            tried = " · ".join(
                f"{plain(one.label)} {'cannot be used' if one.problem else f'{one.wide_ms:.0f} ms'}"
                for one in info.tried_products
            )
            st.caption(f"Ways to multiply, tried at start on the same piece of work: {tried}")
        report = info.precision if info else None
        if report and report.state == "measuring" and latest.switches.quantization == "auto":
            st.caption(
                f"For now: the fastest weights that pass the quality gate are being looked for "
                f"({plain(report.detail)} …); see Weights, below."
            )
        if latest.loading:
            st.info(f"{latest.loading} weights are being loaded; requests go on with {latest.variant} meanwhile.",
                    icon="⏳")
        if latest.error:
            st.error(plain(latest.error))

    line()


def main() -> None:
    """Draw the page."""
    runtime = current()
    st.caption("Every switch acts while requests are being served. Off really is off, so its worth can be measured.")
    status(runtime)
    presets(runtime)
    now = runtime.engine.switches.as_dict()
    groups: dict[str, list[dict[str, Any]]] = {}
    for about in runtime.switchboard.about:
        groups.setdefault(about["group"], []).append(about)
    ineffective = runtime.engine.info.ineffective if runtime.engine.info else {}
    for group, members in groups.items():
        st.markdown(f"##### {group}")
        for about in members:
            name, value = about["name"], now[about["name"]]
            key = f"switch-{name}-{value}"  # a change made elsewhere makes a fresh widget with the value in force
            with st.container(border=True):
                text, control = st.columns([5, 2], vertical_alignment="center")
                acts = "" if about["acts"] == "at once" else f" :gray-badge[acts {about['acts']}]"
                text.markdown(f"**{about['label']}**{acts}")
                text.caption(about["help"])
                if name in ineffective:
                    text.caption(f"**{ineffective[name]}**")
                common: dict[str, Any] = {
                    "key": key, "label_visibility": "collapsed", "on_change": change,
                    "args": (runtime, name, key, value),
                    "disabled": name in ineffective and about["needs"] is not None,  # all of it, not one of its values
                }
                if len(about["choices"]) > MOST_SEGMENTS:
                    st.pills(about["label"], about["choices"], default=value, **common)
                elif about["choices"]:
                    control.segmented_control(about["label"], about["choices"], default=value, **common)
                elif isinstance(value, bool):
                    control.toggle(about["label"], value, **common)
                else:
                    control.number_input(about["label"], about["low"], about["high"], value, **common)
                if name == "quantization":
                    precision(runtime)


main()
