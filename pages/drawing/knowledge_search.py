"""Search: what is found for a question, how similar it is and why, and how little had to be looked at for it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import streamlit as st

from backend.errors import TenfoldError
from backend.runtime import Runtime
from pages.caller import current_caller, current_sight
from pages.drawing.acts import after_press, press
from pages.drawing.collections import collection_labels
from pages.drawing.document import OPENED
from pages.drawing.figures import counted, seconds
from pages.drawing.knowledge_empty import nothing_yet
from pages.drawing.knowledge_graph import graph, place, relation
from pages.drawing.untrusted import opening, passage, plain

if TYPE_CHECKING:
    from backend.knowledge.retrieve import Hit
    from backend.knowledge.search import Found
    from backend.store.tables.documents import Chunk, Document

EVERYTHING = "All collections"
COUNT = 8
PREVIEW = 160
"""Characters of a part that are shown before it is opened."""
EXAMPLES = {
    "lighthouse-handbook.md": "How many steps does the lighthouse tower have?",
    "bike-sharing-report.md": "Which bike sharing station is the busiest?",
    "coffee-machine-manual.md": "How often should the coffee machine be descaled?",
}
"""A question to each of the sample documents."""
OWN_EXAMPLES = 3
QUESTION = "question"
STYLE = """<style>@media (max-width: 640px) { .st-key-question { min-width: 100%; } }</style>"""


@dataclass(frozen=True)
class Outcome:
    """What a way of searching gave, and the seconds from the question to it."""

    found: Found
    hits: list[Hit]
    seconds: float


def search_view(runtime: Runtime) -> None:
    """Draw it."""
    if not runtime.documents.any_searchable(current_sight()):
        _nothing_to_search(runtime)
        return
    st.html(STYLE)
    labels = {EVERYTHING: EVERYTHING, **collection_labels(runtime)}
    with st.container(horizontal=True, vertical_alignment="center"):
        question = st.text_input(
            "Question", key=QUESTION, placeholder="Ask your documents", type="search", label_visibility="collapsed",
            bind="query-params",
        )  # fmt: skip
        where = EVERYTHING
        if len(labels) > 2:
            where = st.selectbox(
                "In", list(labels), format_func=labels.__getitem__, key="in", label_visibility="collapsed",
                bind="query-params", width=190,
            )  # fmt: skip
        compare = st.toggle(
            "Compare with a full pass", key="compare", bind="query-params",
            help="Also compares the question with every part, to see what the quick search misses and what it saves.",
        )  # fmt: skip
    if not (question or "").strip():
        st.fragment(_examples, run_every=0.5 if runtime.documents.pending(current_sight()) else None)(runtime)
        return
    collection = None if where == EVERYTHING else where
    try:
        with st.spinner("Searching…"):
            quick = _search(runtime, question, collection, "graph")
            full = _search(runtime, question, collection, "dense") if compare else None
    except TenfoldError as error:
        st.error(plain(error.message))
        return
    _outcome(runtime, quick, full)


def _nothing_to_search(runtime: Runtime) -> None:
    if runtime.documents.pending(current_sight()):
        _being_read(runtime)
    else:
        nothing_yet(runtime, "Nothing to search yet", "Upload documents under Documents")


@st.fragment(run_every=0.5)
def _being_read(runtime: Runtime) -> None:
    if runtime.documents.any_searchable(current_sight()):
        st.rerun()
    left = runtime.documents.count(current_sight(), wanted=runtime.documents.wanted(kind="reading"))
    st.info(f"{counted(left, 'document')} being read. As soon as one is ready, it can be searched here.")


def _examples(runtime: Runtime) -> None:
    """Questions to begin with: to the samples, or else to the latest documents; more while some are being read."""
    after_press()
    ready = runtime.documents.wanted(kind="ready")
    names = {document.name for document in runtime.documents.listed(ready, current_sight(), limit=200)}
    questions = [question for name, question in EXAMPLES.items() if name in names]
    st.caption("Finds the parts of your documents that answer a question, and says why. For example:")
    if not questions:
        latest = runtime.documents.listed(ready, current_sight(), limit=OWN_EXAMPLES)
        questions = [f"What is {document.name.rsplit('.', 1)[0]} about?" for document in latest]
    for number, question in enumerate(questions):
        press(plain(question), partial(_ask, question), key=f"example-{number}")


def _ask(question: str) -> None:
    st.session_state[QUESTION] = question


def _search(runtime: Runtime, question: str, collection: str | None, mode: str) -> Outcome:
    started, sight = time.perf_counter(), current_sight()
    key_id = current_caller().id
    found = runtime.retriever.find(question, collection, sight, mode=mode, source="console", key_id=key_id)
    return Outcome(found, runtime.retriever.hits(found, COUNT, sight), time.perf_counter() - started)


def _outcome(runtime: Runtime, quick: Outcome, full: Outcome | None) -> None:
    if not quick.hits:
        st.info("Nothing was found. Choose another collection, or ask in other words.")
        return
    if not runtime.retriever.about(quick.hits):
        st.warning("Nothing found is about this question: asked in the chat, it is answered that the documents do not "
                   "say.")  # fmt: skip
    if full is None:
        _figures(quick)
        _listed(runtime, quick, "quick")
    else:
        left, right = st.columns(2)
        with left:
            st.markdown("##### Quick search")
            _figures(quick)
            _listed(runtime, quick, "quick")
        with right:
            st.markdown("##### A full pass")
            _figures(full)
            _listed(runtime, full, "full")
    graph(runtime, quick.found, quick.hits)


def _figures(outcome: Outcome) -> None:
    """How much was looked at and how long it took, in one line."""
    found = outcome.found
    share = found.visited / max(found.total, 1)
    walked = f", {counted(len(found.steps), 'connection')} followed" if found.steps else ""
    looked = f"Looked at {found.visited:,} of {counted(found.total, 'part')} ({share:.0%})"
    st.caption(
        f"{looked} in {seconds(found.seconds)}{walked}",
        help=f"{seconds(outcome.seconds)} in all; most of it is understanding the question and fetching the texts.",
    )


def _listed(runtime: Runtime, outcome: Outcome, key: str) -> None:
    """Ranked parts with their similarity and the reasons."""
    sources = [hit.parts.step.source for hit in outcome.hits if hit.parts.step is not None]
    origins = runtime.documents.found(sources, current_sight()) if sources else {}
    for number, hit in enumerate(outcome.hits, start=1):
        with st.container(border=True, key=f"hit-{key}-{number}", gap=None):
            with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
                st.button(
                    plain(f"{number}. {hit.document} · part {hit.position + 1}"), key=f"open-{key}-{number}",
                    type="tertiary", on_click=_open, args=(hit.document_id,),
                )  # fmt: skip
                st.markdown(_reasons(hit, origins), width="content")
            with st.expander(plain(opening(hit.text, PREVIEW)), type="compact"):
                st.markdown(passage(hit.text))


def _open(document_id: str) -> None:
    st.query_params[OPENED] = document_id


def _reasons(hit: Hit, origins: dict[str, tuple[Chunk, Document]]) -> str:
    """How similar a part is to the question, and what else speaks for it, in words."""
    parts = hit.parts
    said = [f":blue-badge[similarity {min(parts.cosine, 1.0):.2f}]"] if parts.cosine else []
    if parts.keyword:
        said.append(f":green-badge[has your words +{parts.from_keywords:.2f}]")
    if parts.title:
        said.append(f":violet-badge[named in the question +{parts.from_title:.2f}]")
    if parts.hop and parts.step is not None:
        origin = place(origins.get(parts.step.source))
        said.append(f":orange-badge[{plain(relation(parts.step, origin, 'this'))} +{parts.hop:.2f}]")
    return " ".join(said)
