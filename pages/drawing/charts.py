"""One palette and one way to draw a chart over time, with its text and its table; it knows not what a figure shows."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import plotly.graph_objects as go
import streamlit as st

from pages.drawing.figures import moment

TEAL, AMBER, BLUE, GRAY, RED, VIOLET = "#14b8a6", "#f59e0b", "#6366f1", "#94a3b8", "#ef4444", "#a855f7"
COLORS = {
    "out": TEAL, "in": BLUE, "cached": VIOLET,
    "people": TEAL, "api": BLUE, "jobs": AMBER, "answers": VIOLET,
    "running": TEAL, "waiting": AMBER, "failed": RED, "cancelled": GRAY, "answered": TEAL, "repeated": VIOLET,
    "paid": TEAL, "idle": GRAY, "Baseline": AMBER,
    "p50": TEAL, "p95": AMBER, "p99": RED,
}  # fmt: skip
"""A colour for a thing, on every page."""
MOST_MARKS = 50
FLATTENED = 20.0
"""How many times its median a largest value is that would flatten all others: the axis is logarithmic then."""
Shape = Literal["line", "area", "steps", "dots", "bars"]


@dataclass(frozen=True, slots=True)
class Line:
    """Values over time (seconds since the epoch); None where there is nothing to say.

    Attributes:
        name: of the thing, as in `COLORS`.
        shape: how it is drawn.
    """

    name: str
    times: Sequence[float]
    values: Sequence[float | None]
    shape: Shape = "line"

    @property
    def color(self) -> str:
        """Of the thing."""
        return COLORS.get(self.name, BLUE)


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at one moment, drawn as a line through a chart."""

    time: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart over the time from `since` to `until`."""

    title: str
    unit: str
    lines: Sequence[Line]
    since: float
    until: float
    marks: Sequence[Mark] = ()
    said: str = ""
    """What it shows, in words."""
    stacked: bool = True
    """Whether bars of one moment stand on each other, or beside."""


def draw(chart: Chart, *, key: str, height: int = 260, table: bool = False) -> None:
    """Show a chart, or its figures as a table, with what it shows in words below."""
    if table:
        st.markdown(f"**{chart.title}** ({chart.unit})")
        st.dataframe(rows(chart), hide_index=True, width="stretch", height=height - 40, key=f"{key}-table")
    else:
        show(figure(chart, height), key=key)
    if chart.said:
        st.caption(chart.said)


def show(drawn: go.Figure, *, key: str) -> None:
    """Show any figure, without the tools that would lie over its title."""
    st.plotly_chart(drawn, width="stretch", key=key, config={"displayModeBar": False})


def figure(chart: Chart, height: int = 260) -> go.Figure:
    """The chart as Plotly draws it."""
    out = go.Figure([_trace(line) for line in chart.lines])
    logarithmic = flattened(value for line in chart.lines for value in line.values)
    axis = {"title": {"text": chart.unit}, "exponentformat": "none", "separatethousands": True}
    out.update_layout(
        title={"text": chart.title, "font": {"size": 15}, "x": 0},
        height=height,
        margin={"l": 8, "r": 8, "t": 44, "b": 8},
        yaxis={**axis, "type": "log", "dtick": 1} if logarithmic else {**axis, "rangemode": "tozero"},
        dragmode=False,  # a finger that scrolls the page would zoom instead
        xaxis={"type": "date", "range": [_at(chart.since), _at(chart.until)], "title": None},
        legend={"orientation": "h", "y": 1.12, "x": 1, "xanchor": "right"},
        showlegend=len(chart.lines) > 1,
        barmode="stack" if chart.stacked else "group",
        bargap=0.1,
        uirevision=chart.title,
        hovermode="x unified",
    )
    within = [mark for mark in chart.marks if chart.since <= mark.time <= chart.until][:MOST_MARKS]
    out.update_layout(  # all at once: each added by itself would have all former ones checked again
        shapes=[
            {"type": "line", "x0": _at(mark.time), "x1": _at(mark.time), "y0": 0, "y1": 1, "yref": "paper",
             "line": {"width": 1, "dash": "dot", "color": GRAY}}
            for mark in within
        ],
        annotations=[
            {"x": _at(mark.time), "y": 1, "yref": "paper", "text": "◆", "showarrow": False,
             "hovertext": escape(mark.text), "font": {"size": 11, "color": GRAY}}
            for mark in within
        ],
    )  # fmt: skip
    return out


def flattened(values: Iterable[float | None]) -> bool:
    """Whether one outlier would press all other values flat against the axis."""
    known = [value for value in values if value is not None]
    return len(known) > 4 and min(known) > 0 and max(known) > FLATTENED * statistics.median(known)


def rows(chart: Chart) -> list[dict[str, object]]:
    """The chart's figures, a row a moment, the latest first."""
    moments: dict[float, dict[str, object]] = {}
    for line in chart.lines:
        for at, value in zip(line.times, line.values, strict=True):
            moments.setdefault(at, {})[line.name] = value
    return [{"time": _at(at), **moments[at]} for at in sorted(moments, reverse=True)]


def _trace(line: Line) -> go.Scatter | go.Bar:
    x, y, color = [_at(t) for t in line.times], list(line.values), line.color
    if line.shape == "bars":
        return go.Bar(x=x, y=y, name=line.name, marker={"color": color})
    if line.shape == "dots":
        return go.Scatter(
            x=x, y=y, name=line.name, mode="markers", marker={"color": color, "size": 7, "opacity": 0.7}
        )  # fmt: skip
    return go.Scatter(
        x=x, y=y, name=line.name, mode="lines", fill="tozeroy" if line.shape == "area" else None,
        line={"color": color, "width": 2, "shape": "hv" if line.shape == "steps" else "linear"},
    )  # fmt: skip


def _at(epoch: float) -> str:
    """On the reader's clock; an axis of Plotly's knows no zones."""
    return moment(epoch).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
