"""The part of the graph that a search walked: parts of documents by name, and what leads from one to another."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

import plotly.graph_objects as go
import streamlit as st

from backend.runtime import Runtime
from pages.caller import current_sight
from pages.drawing.charts import AMBER, GRAY, TEAL, show
from pages.drawing.untrusted import opening, plain

if TYPE_CHECKING:
    from backend.knowledge.retrieve import Hit
    from backend.knowledge.search import Found, Step
    from backend.store.tables.documents import Chunk, Document

    Rows = dict[str, tuple[Chunk, Document]]

MOST_STEPS = 40
STRONG = ("names", "links to")
LONGEST_LABEL = 24
INK = "#0f151c"
STYLE = """<style>
.st-key-graph .annotation-text, .st-key-graph .legendtext { fill: light-dark(#16202b, #e6edf3) !important; }
</style>"""
INNER, OUTER = 1.0, 1.9
"""Radii of the rings: what was found, and what led to it."""


def place(row: tuple[Chunk, Document] | None, longest: int | None = None) -> str:
    """A part in the reader's words: document · part; plain text."""
    if row is None:
        return "a part that is gone"
    chunk, document = row
    name = document.name.rsplit(".", 1)[0]
    if longest is not None and len(name) > longest:
        name = name[:longest].rstrip() + "…"
    return f"{name} · part {chunk.position + 1}"


def relation(step: Step, source: str, target: str) -> str:
    """What an edge says of its ends; one that was walked backward says it the other way round."""
    return f"{target} {step.kind} {source}" if step.backward else f"{source} {step.kind} {target}"


def graph(runtime: Runtime, found: Found, hits: list[Hit]) -> None:
    """Draw it, and say it in words below."""
    top = {hit.chunk_id for hit in hits}
    steps = [s for s in found.steps if s.target in top or s.source in top]
    steps = sorted(steps, key=lambda step: -step.gain)[:MOST_STEPS]
    if not steps:
        return
    ends = [end for step in steps for end in (step.source, step.target)]
    names = list(dict.fromkeys([*(hit.chunk_id for hit in hits), *ends]))
    rows = runtime.documents.found(names, current_sight())
    st.markdown("##### How they hang together")
    st.html(STYLE)
    show(_figure(names, top, steps, rows), key="graph")
    st.caption("Numbered are the parts found, as above; gray are others that led there.")
    with st.expander("The same in words"):
        said = [relation(s, place(rows.get(s.source)), place(rows.get(s.target))) for s in steps]
        st.markdown("\n".join(f"- {plain(line)}" for line in dict.fromkeys(said)))


def _figure(names: list[str], top: set[str], steps: list[Step], rows: Rows) -> go.Figure:
    inner, outer = [n for n in names if n in top], [n for n in names if n not in top]
    at = {**_ring(inner, INNER, 0.0), **_ring(outer, OUTER, 0.3)}
    out = go.Figure()
    for kind in sorted({step.kind for step in steps}):
        xs: list[float | None] = []
        ys: list[float | None] = []
        for step in steps:
            if step.kind == kind:
                xs += [at[step.source][0], at[step.target][0], None]
                ys += [at[step.source][1], at[step.target][1], None]
        strong = kind in STRONG
        out.add_scatter(
            x=xs, y=ys, mode="lines", name=kind, hoverinfo="skip",
            line={"width": 2 if strong else 1, "color": AMBER if strong else GRAY, "dash": None if strong else "dot"},
        )  # fmt: skip
    for ring, color, points, numbers in ((outer, GRAY, 10, []), (inner, TEAL, 24, range(1, len(inner) + 1))):
        out.add_scatter(
            x=[at[n][0] for n in ring], y=[at[n][1] for n in ring], mode="markers+text", showlegend=False,
            text=[str(number) for number in numbers], textfont={"color": INK, "size": 12},
            hoverinfo="text", marker={"size": points, "color": color},
            hovertext=[_hover(rows.get(n)) for n in ring],
        )  # fmt: skip
    for name in names:
        out.add_annotation(
            x=at[name][0], y=at[name][1], text=escape(place(rows.get(name), LONGEST_LABEL)), showarrow=False,
            yshift=-22, font={"size": 12 if name in top else 11},
        )  # fmt: skip
    out.update_layout(
        height=460, margin={"l": 8, "r": 8, "t": 8, "b": 8}, plot_bgcolor="rgba(0,0,0,0)", dragmode=False,
        xaxis={"visible": False, "range": [-2.3, 2.3]}, yaxis={"visible": False, "range": [-2.3, 2.1]},
        legend={"orientation": "h", "y": -0.02},
    )  # fmt: skip
    return out


def _ring(names: list[str], radius: float, turn: float) -> dict[str, tuple[float, float]]:
    angles = [2 * math.pi * i / max(len(names), 1) + turn + math.pi / 2 for i in range(len(names))]
    return {n: (radius * math.cos(a), radius * math.sin(a)) for n, a in zip(names, angles, strict=True)}


def _hover(row: tuple[Chunk, Document] | None) -> str:
    """What is said of a part that is pointed at; Plotly reads a little HTML, so what is written in it is escaped."""
    return "" if row is None else f"<b>{escape(place(row))}</b><br>{escape(opening(row[0].text, 120))}"
