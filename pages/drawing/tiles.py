"""Figures in tiles: a label, a value, what it is of, and where it helps, how it went in the last hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import streamlit as st


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure.

    Attributes:
        below: what it is of, in few words.
        about: a sentence for who wants to know more.
        course: values over time, the latest last; drawn as small bars.
    """

    label: str
    value: str
    below: str = ""
    about: str = ""
    course: Sequence[float] = ()


def tiles(*shown: Tile, name: str) -> None:
    """Draw tiles of one height in a row; on a phone two of them stand in one."""
    st.html(f'<dl class="tiles" aria-label="{escape(name)}">{"".join(_tile(one) for one in shown)}</dl>')


def _tile(one: Tile) -> str:
    return (
        f'<div title="{escape(one.about)}"><dt>{escape(one.label)}</dt><dd class="value">{escape(one.value)}</dd>'
        f'<dd class="below">{escape(one.below)}</dd>{_course(one.course)}</div>'
    )


def _course(values: Sequence[float]) -> str:
    if not values:
        return ""
    most = max(values) or 1.0
    bars = "".join(f'<i style="height:{max(value / most, 0.0) * 100:.0f}%"></i>' for value in values)
    return f'<dd class="course" aria-hidden="true">{bars}</dd>'
