"""One palette and one way to draw a chart over time; nothing here knows what a figure shows."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import datetime

import plotly.graph_objects as go
import streamlit as st

TEAL, AMBER, BLUE, GRAY = "#14b8a6", "#f59e0b", "#6366f1", "#94a3b8"


def chart(title: str, unit: str, *traces: go.Scatter, span: float) -> go.Figure:
    """A small chart over the last `span` seconds."""
    now = time.time()
    figure = go.Figure(list(traces))
    figure.update_layout(
        title={"text": title, "font": {"size": 15}, "x": 0},
        height=260,
        margin={"l": 8, "r": 8, "t": 44, "b": 8},
        yaxis={"title": {"text": unit}, "rangemode": "tozero", "exponentformat": "none"},
        dragmode=False,  # a finger that scrolls the page would zoom instead
        xaxis={"type": "date", "range": moments([now - span, now])},
        legend={"orientation": "h", "y": 1.12, "x": 1, "xanchor": "right"},
        showlegend=len(traces) > 1,
        uirevision=title,
    )
    return figure


def draw(figure: go.Figure, *, key: str) -> None:
    """Show a figure, without the tools that would lie over its title."""
    st.plotly_chart(figure, width="stretch", key=key, config={"displayModeBar": False})


def steps(times: Iterable[float], values: Iterable[float], *, color: str, name: str) -> go.Scatter:
    """A value that holds until the next one."""
    line = {"color": color, "shape": "hv"}
    return go.Scatter(x=moments(times), y=list(values), mode="lines", line=line, name=name)


def area(times: Iterable[float], values: Iterable[float], *, color: str, name: str) -> go.Scatter:
    """A value with the surface below it."""
    return go.Scatter(x=moments(times), y=list(values), fill="tozeroy", line={"color": color}, name=name)


def dots(times: Iterable[float], values: Iterable[float], *, color: str, name: str) -> go.Scatter:
    """One mark for each value."""
    marker = {"color": color, "size": 7, "opacity": 0.7}
    return go.Scatter(x=moments(times), y=list(values), mode="markers", marker=marker, name=name)


def moments(times: Iterable[float]) -> list[datetime]:
    """Local times for an axis, of seconds since the epoch."""
    return [datetime.fromtimestamp(t) for t in times]
