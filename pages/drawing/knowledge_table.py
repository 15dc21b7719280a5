"""The table of documents: sought, filtered, sorted, paged, live while some are read, and many changed at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import streamlit as st

from backend.runtime import Runtime
from pages.caller import current_sight
from pages.drawing.acts import after_press, press, press_after_asking
from pages.drawing.collections import collection_labels
from pages.drawing.figures import counted
from pages.drawing.knowledge_access import may_change
from pages.drawing.knowledge_row import STYLE, row
from pages.drawing.knowledge_upload import taken_in

if TYPE_CHECKING:
    from backend.knowledge.listing import Wanted

ROWS = 25
EVERYTHING = "All collections"
KINDS = {"All": "", "Ready": "ready", "Being read": "reading", "Failed": "failed"}
SORTED = {
    "Newest first": "newest", "Oldest first": "oldest", "By name": "name", "Largest first": "largest",
    "Most parts first": "chunks",
}  # fmt: skip
TICK = 0.5
"""Seconds between two looks at the documents while some are being read."""
CHOSEN, PAGE = "chosen-documents", "documents-page"
TURN = "chosen-turn"
"""Counts what was done with the chosen: the next question is another one, and closed."""


def table(runtime: Runtime) -> None:
    """Draw it, with what narrows it down above."""
    st.html(STYLE)
    wanted = _wanted(runtime)
    working = runtime.documents.pending(current_sight()) > 0

    @st.fragment(run_every=TICK if working else None)
    def rows() -> None:
        after_press()
        if working and not runtime.documents.pending(current_sight()):
            st.rerun()
        _rows(runtime, wanted)

    rows()


def _wanted(runtime: Runtime) -> Wanted:
    labels = {EVERYTHING: EVERYTHING, **collection_labels(runtime)}
    with st.container(horizontal=True, key="narrow", vertical_alignment="center"):
        words = st.text_input(
            "Find a document by name", key="named", placeholder="Find by name", type="search", live=True,
            label_visibility="collapsed", bind="query-params", on_change=_from_the_start, width=260,
        )  # fmt: skip
        kind = st.segmented_control(
            "State", list(KINDS), key="state", default="All", required=True, label_visibility="collapsed",
            bind="query-params", on_change=_from_the_start,
        )  # fmt: skip
        collection = EVERYTHING
        if len(labels) > 2:
            collection = st.selectbox(
                "Collection", list(labels), format_func=labels.__getitem__, key="collection",
                label_visibility="collapsed", bind="query-params", on_change=_from_the_start, width=190,
            )  # fmt: skip
        by = st.selectbox(
            "Sort", list(SORTED), key="sort", label_visibility="collapsed", bind="query-params",
            on_change=_from_the_start, width=170,
        )  # fmt: skip
    return runtime.documents.wanted(
        collection=None if collection == EVERYTHING else collection, words=words or "", kind=KINDS[kind or "All"],
        order=SORTED[by], first=tuple(taken_in())[:ROWS] if SORTED[by] == "newest" else (),
    )  # fmt: skip


def _from_the_start() -> None:
    st.session_state[PAGE] = 1
    st.session_state[CHOSEN] = set()


def _rows(runtime: Runtime, wanted: Wanted) -> None:
    sight = current_sight()
    count = runtime.documents.count(sight, wanted=wanted)
    pages = max(1, -(-count // ROWS))
    number = min(int(st.session_state.get(PAGE, 1)), pages)
    documents = runtime.documents.listed(wanted, sight, offset=(number - 1) * ROWS, limit=ROWS)
    ids = [document.id for document in documents]
    if may_change():
        _choice(runtime, wanted, ids, count)
    else:
        st.caption(counted(count, "document"))
    if not documents:
        st.info("No document is like that. Clear the search or choose another state.")
        return
    memberships, called = runtime.collections.memberships(sight, ids), collection_labels(runtime)
    chosen: set[str] = st.session_state.get(CHOSEN, set())
    known = taken_in()
    others = called.keys() - {runtime.collections.default}
    with st.container(key="documents", gap=None):
        for document in documents:
            names = [name for name in memberships.get(document.id, []) if name != runtime.collections.default]
            inside = [called.get(name, name) for name in names] if others else None
            row(runtime, document, inside, known.get(document.id), document.id in chosen, _choose)
    if pages > 1:
        st.session_state[PAGE] = number
        st.pagination(pages, key=PAGE)


def _choice(runtime: Runtime, wanted: Wanted, ids: list[str], count: int) -> None:
    """One line above the rows, which stays where it is: what is chosen, and what can be done with it."""
    chosen: set[str] = st.session_state.setdefault(CHOSEN, set())
    sight, here = current_sight(), bool(ids) and chosen.issuperset(ids)
    with st.container(horizontal=True, vertical_alignment="center", key="choice"):
        st.session_state["choose-page"] = here
        st.checkbox(
            "Choose all on this page", key="choose-page", on_change=_choose_page, args=(ids,), disabled=not ids,
            label_visibility="collapsed",
        )  # fmt: skip
        if chosen:
            st.markdown(f"**{len(chosen):,}** of {count:,} chosen", width="content")
        else:
            st.markdown(counted(count, "document"), width="content")
        if here and len(chosen) < count:
            st.button(
                f"Choose all {count:,}", key="choose-all", type="tertiary",
                on_click=lambda: _choose_these(runtime.documents.ids(wanted, sight)),
            )  # fmt: skip
        st.space("stretch")
        wait = sorted(chosen)
        press(
            "Read again", partial(_then_none, partial(runtime.documents.reread, wait, sight)), key="reread-chosen",
            disabled=not chosen, help="Cut and embedded anew; what is unchanged keeps its embeddings.",
        )  # fmt: skip
        press_after_asking(
            "Delete",
            f"Delete {counted(len(chosen), 'document')} with all that was read? This cannot be undone.",
            partial(_then_none, partial(runtime.documents.delete_all, wait, sight)),
            key=f"delete-chosen-{st.session_state.get(TURN, 0)}", disabled=not chosen,
            yes=f"Delete {counted(len(chosen), 'document')}",
        )  # fmt: skip


def _then_none(action: Callable[[], object]) -> None:
    action()
    st.session_state[CHOSEN] = set()
    st.session_state[TURN] = st.session_state.get(TURN, 0) + 1


def _choose(document_id: str) -> None:
    st.session_state.setdefault(CHOSEN, set()).symmetric_difference_update({document_id})


def _choose_page(ids: list[str]) -> None:
    chosen: set[str] = st.session_state.setdefault(CHOSEN, set())
    if chosen.issuperset(ids):
        chosen.difference_update(ids)
    else:
        chosen.update(ids)


def _choose_these(ids: list[str]) -> None:
    st.session_state[CHOSEN] = set(ids)
