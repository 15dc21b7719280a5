"""A document, opened in a panel: its text, its versions and what each changed, and the collections it is in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from backend.errors import TenfoldError
from backend.runtime import Runtime
from pages.caller import current_sight
from pages.drawing.collections import collection_labels
from pages.drawing.figures import counted, size, when
from pages.drawing.knowledge_access import may_change
from pages.drawing.untrusted import passage, plain

if TYPE_CHECKING:
    from backend.store.tables.documents import Document

CHUNKS_A_PAGE = 20
OPENED = "document"
"""The address names the open document under this, so that a reload and a link show it."""


def opened(runtime: Runtime) -> None:
    """The document that the address names, in a panel beside the page. For a page, outside of its fragments."""
    document_id = st.query_params.get(OPENED)
    if document_id is None:
        return
    try:
        document = runtime.documents.get(document_id, current_sight())
    except TenfoldError as error:
        del st.query_params[OPENED]
        st.error(plain(error.message))
        return

    @st.dialog(plain(document.name), width="medium", position="right", on_dismiss=_close)
    def panel() -> None:
        details(runtime, document)

    panel()


def _close() -> None:
    st.query_params.pop(OPENED, None)


def details(runtime: Runtime, document: Document) -> None:
    """Its parts, versions and collections."""
    facts = [size(document.size), f"uploaded {when(document.created)}"]
    if document.build:
        facts.insert(0, counted(document.chunk_count, "part"))
    st.caption(" · ".join(facts))
    if document.state == "failed":
        st.error(plain(document.reason))
    views = st.tabs(["Text", "Versions", "Collections"], key=f"of-{document.id}", on_change="rerun")
    for view, draw in zip(views, (chunk_viewer, version_list, membership), strict=True):
        if view.open:
            with view:
                draw(runtime, document)


def membership(runtime: Runtime, document: Document) -> None:
    """The collections it is in, to be changed."""
    labels = collection_labels(runtime)
    inside = runtime.collections.memberships(current_sight(), [document.id]).get(document.id, [])
    if not may_change():
        st.markdown(", ".join(plain(labels.get(name, name)) for name in inside))
        return
    chosen = st.multiselect(
        "In these collections", sorted({*labels, *inside}), default=inside, key=f"collections-{document.id}",
        accept_new_options=True, help="A document may be in several; nothing is read again.",
        format_func=lambda name: labels.get(name, name),
    )
    if st.button("Save", key=f"save-{document.id}", type="primary", disabled=sorted(chosen) == sorted(inside)):
        try:
            runtime.collections.assign(document.id, chosen, current_sight())
            st.rerun()
        except TenfoldError as error:
            st.error(plain(error.message))


def chunk_viewer(runtime: Runtime, document: Document) -> None:
    """The chunks in force, some at a time, with a search among them."""
    chunks = runtime.documents.chunks(document.id, current_sight())
    if not chunks:
        st.caption("Nothing has been read of it yet.")
        return
    look_for = st.text_input(
        "Find in its text", key=f"find-{document.id}", placeholder="Find in its text", label_visibility="collapsed",
        type="search", live=True,
    )
    if look_for:
        chunks = [chunk for chunk in chunks if look_for.lower() in chunk.text.lower()]
    if not chunks:
        st.caption("No part contains this.")
        return
    pages = -(-len(chunks) // CHUNKS_A_PAGE)
    page = st.pagination(pages, key=f"page-{document.id}-{look_for}") if pages > 1 else 1
    for number, chunk in enumerate(chunks[(page - 1) * CHUNKS_A_PAGE : page * CHUNKS_A_PAGE]):
        if number:
            st.divider()
        st.caption(f"Part {chunk.position + 1} · {counted(chunk.tokens, 'token')}")
        st.markdown(passage(chunk.text))


def version_list(runtime: Runtime, document: Document) -> None:
    """The versions of a document, and what each changed."""
    for version in runtime.documents.versions(document.id, current_sight()):
        force = " :green-badge[in force]" if version.number == document.version else ""
        cut = f"{counted(version.chunk_count, 'part')}, {version.embedded} of them embedded for it"
        what = cut if version.build else "text not kept"
        st.markdown(f"**Version {version.number}**{force} · {size(version.size)} · {when(version.created)} · {what}")
        if not version.build or version.number == 1:
            continue
        with st.expander(f"What version {version.number} changed"):
            try:
                change = runtime.documents.changes(document.id, version.number, current_sight())
            except TenfoldError as error:
                st.caption(plain(error.message))
                continue
            kept = counted(change.kept, "part")
            st.caption(f"{kept} kept, {len(change.added)} added, {len(change.removed)} removed")
            for mark, color, texts in (("Added", "green", change.added), ("Removed", "red", change.removed)):
                for text in texts[:10]:
                    st.markdown(f":{color}-badge[{mark}]")
                    st.markdown(passage(text))
