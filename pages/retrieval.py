"""Ask the search itself: what it finds, why, over which edges, and how little of the corpus it had to look at."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

import plotly.graph_objects as go
import streamlit as st

from backend.access.caller import Role
from backend.errors import TenfoldError
from backend.runtime import Runtime, current
from pages.caller import current_caller, current_sight
from pages.drawing.charts import AMBER, GRAY, TEAL, show
from pages.drawing.collections import collection_labels
from pages.drawing.figures import seconds
from pages.drawing.untrusted import opening, passage, plain
from pages.navigation import page

if TYPE_CHECKING:
    from backend.knowledge.retrieve import Hit
    from backend.knowledge.search import Found
    from backend.store.tables.documents import Chunk, Document

EVERYTHING = "All collections"
COUNT = 8


def reasons(hit: Hit) -> str:
    """What a score is made of, in words."""
    parts = hit.parts
    said = [f":blue-badge[near {parts.cosine:.2f}]"] if parts.cosine else []
    if parts.keyword:
        said.append(f":green-badge[keywords +{parts.from_keywords:.2f}]")
    if parts.title:
        said.append(f":violet-badge[named by the question +{parts.from_title:.2f}]")
    if parts.hop and parts.step is not None:
        said.append(f":orange-badge[hop: {parts.step.kind} +{parts.hop:.2f}]")
    return " ".join(said)


def hover(chunk: Chunk, document: Document) -> str:
    """What is said of a chunk that is pointed at; Plotly reads a little HTML, so what is written in it is escaped."""
    return f"<b>{escape(document.name)}</b><br>{escape(chunk.text[:120])}…"


def figure(runtime: Runtime, found: Found, hits: list[Hit]) -> go.Figure | None:
    """The part of the graph that was walked: the chunks shown, and those that led to them."""
    top = {hit.chunk_id: hit for hit in hits}
    steps = [s for s in found.steps if s.target in top or s.source in top][:60]
    names = list(dict.fromkeys([*top, *(end for s in steps for end in (s.source, s.target))]))
    if len(names) < 2:
        return None
    rows = runtime.documents.found(names, current_sight())
    inner = [n for n in names if n in top]
    outer = [n for n in names if n not in top]
    place: dict[str, tuple[float, float]] = {}
    for ring, radius, turn in ((inner, 1.0, 0.0), (outer, 1.9, 0.3)):
        for i, name in enumerate(ring):
            angle = 2 * math.pi * i / max(len(ring), 1) + turn + math.pi / 2
            place[name] = (radius * math.cos(angle), radius * math.sin(angle))
    out = go.Figure()
    for kind in sorted({s.kind for s in steps}):
        xs: list[float | None] = []
        ys: list[float | None] = []
        for s in steps:
            if s.kind == kind:
                xs += [place[s.source][0], place[s.target][0], None]
                ys += [place[s.source][1], place[s.target][1], None]
        strong = kind in ("names", "links to")
        out.add_scatter(
            x=xs, y=ys, mode="lines", name=kind, hoverinfo="skip",
            line={"width": 2 if strong else 1, "color": AMBER if strong else GRAY, "dash": None if strong else "dot"},
        )

    ranks = [str(hits.index(top[n]) + 1) for n in inner]
    for ring, color, points, text in ((outer, GRAY, 10, None), (inner, TEAL, 24, ranks)):
        out.add_scatter(
            x=[place[n][0] for n in ring], y=[place[n][1] for n in ring], mode="markers+text" if text else "markers",
            text=text, textfont={"color": "white", "size": 12}, showlegend=False, hoverinfo="text",
            marker={"size": points, "color": color},
            hovertext=[hover(*rows[n]) if n in rows else "" for n in ring],
        )  # fmt: skip
    reach = 2.1 if outer else 1.2
    out.update_layout(
        height=380 if outer else 280, margin={"l": 8, "r": 8, "t": 8, "b": 8}, plot_bgcolor="rgba(0,0,0,0)",
        xaxis={"visible": False, "range": [-reach, reach]}, yaxis={"visible": False, "range": [-reach, reach]},
        legend={"orientation": "h", "y": -0.02}, dragmode=False,
    )
    return out


def listed(hits: list[Hit]) -> None:
    """Ranked chunks with their reasons."""
    for number, hit in enumerate(hits, start=1):
        with st.container(border=True):
            st.markdown(f"**{number}. {plain(hit.document)}** · part {hit.position + 1} · {hit.score:.3f}")
            st.markdown(reasons(hit))
            with st.expander(plain(opening(hit.text))):
                st.markdown(passage(hit.text))


def figures(found: Found, full: Found) -> None:
    """Visited against the whole, and the time of both."""
    with st.container(horizontal=True):
        share = found.visited / max(found.total, 1)
        st.metric("Chunks looked at", f"{found.visited:,} of {found.total:,}", f"{share:.1%}", border=True,
                  delta_color="off", delta_arrow="off")  # fmt: skip
        st.metric("Time", seconds(found.seconds), border=True, help="Without the embedding of the question.")
        st.metric("A full pass", seconds(full.seconds), border=True, help="Comparing the question with every chunk.")
        st.metric("Edges walked", f"{len(found.steps):,}", border=True)


def answer(runtime: Runtime, question: str, collection: str | None) -> None:
    """Both ways of searching, side by side."""
    sight = current_sight()
    found = runtime.retriever.find(question, collection, sight, mode="graph", source="console")
    full = runtime.retriever.find(question, collection, sight, mode="dense", source="console")
    hits, compared = runtime.retriever.hits(found, COUNT, sight), runtime.retriever.hits(full, COUNT, sight)
    figures(found, full)
    if not hits:
        st.info("Nothing was found. Upload documents, or choose another collection.")
        return
    if not runtime.retriever.about(hits):
        st.warning(
            "Nothing found is about this question, so the chat would say that it does not know from these documents."
        )
    drawn = figure(runtime, found, hits)
    if drawn is not None:
        show(drawn, key="subgraph")
        st.caption("Numbers are the ranks below; what led to them is gray. Point at one to read it.")
    left, right = st.columns(2)
    with left:
        st.markdown("##### Over the graph")
        listed(hits)
    with right:
        st.markdown("##### Compared with every chunk")
        listed(compared)


def main() -> None:
    """Draw the page."""
    runtime = current()
    st.caption("A question walks from what is near, what has its words and what it names over a graph of mentions.")
    if not runtime.documents.any_searchable(current_sight()):
        with st.container(border=True):
            st.markdown("#### Nothing to search yet")
            st.write("Upload documents first; then ask here and see what is found, and why.")
            may = current_caller().role.covers(Role.USER)
            if may and st.button("Load the sample documents", type="primary", icon=":material/library_add:"):
                try:
                    runtime.samples.load()
                except TenfoldError as error:
                    st.error(plain(error.message))
                else:
                    st.switch_page(page("knowledge"))
        return
    labels = {EVERYTHING: EVERYTHING, **collection_labels(runtime)}
    left, right = st.columns([4, 1], vertical_alignment="bottom")
    question = left.text_input(
        "Question", key="question", placeholder="Which station is the busiest?", persist_state="session"
    )
    chosen = right.selectbox(
        "In", list(labels), format_func=labels.__getitem__, key="where", persist_state="session"
    )
    if not question.strip():
        graph = runtime.index.graph if runtime.index.opened else None
        if graph is not None:
            st.caption(f"The graph has {len(graph):,} chunks and {graph.edge_count:,} edges.")
        return
    try:
        with st.spinner("Searching…"):
            answer(runtime, question, None if chosen == EVERYTHING else chosen)
    except TenfoldError as error:
        st.error(plain(error.message))


main()
