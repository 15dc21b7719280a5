"""One switch: what it does, whether it acts here, and the widget that changes it."""

from __future__ import annotations

from typing import Any

import streamlit as st

from backend.runtime import Runtime
from pages.caller import current_caller
from pages.drawing.untrusted import plain
from pages.drawing.worth import draw_worth

MOST_SEGMENTS = 3
"""Choices that fit beside a text; more stand in a line of their own."""


def draw_switch(runtime: Runtime, about: dict[str, Any], value: Any, ineffective: str | None) -> None:
    """Draw a switch with its value.

    Args:
        runtime: whose switch it is.
        about: what it is, from `Switchboard.about`.
        value: that it has now.
        ineffective: why one of its values does nothing here; None where all of them act.
    """
    name = about["name"]
    key = f"switch-{name}-{value}"  # a change made elsewhere makes a fresh widget with the value in force
    text, control = st.columns([5, 2], vertical_alignment="center")
    acts = "" if about["acts"] == "at once" else f" :gray-badge[acts {about['acts']}]"
    text.markdown(f"**{about['label']}**{acts}")
    text.caption(about["help"] + (f" **{plain(ineffective)}**" if ineffective else ""))
    common: dict[str, Any] = {
        "key": key, "label_visibility": "collapsed", "on_change": _change, "args": (runtime, name, key, value),
    }  # fmt: skip
    if len(about["choices"]) > MOST_SEGMENTS:
        st.pills(about["label"], about["choices"], default=value, **common)
    elif about["choices"]:
        control.segmented_control(about["label"], about["choices"], default=value, **common)
    elif isinstance(value, bool):
        control.toggle(about["label"], value, **common)
    else:
        control.number_input(about["label"], about["low"], about["high"], value, **common)
    draw_worth(runtime, about)


def _change(runtime: Runtime, name: str, key: str, drawn: Any) -> None:
    """Apply a widget's new value.

    A page that redraws itself may hear of a widget that is gone, once more with the value it was drawn with: nobody
    pressed that, and it would undo what was pressed since.
    """
    value: Any = st.session_state[key]
    if value is not None and value != drawn:
        runtime.switchboard.change({name: value}, who=current_caller().id)
