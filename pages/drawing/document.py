"""A document, opened: its chunks, its versions and what each changed, and the collections it is in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from backend.errors import TenfoldError
from backend.runtime import Runtime
from pages.caller import current_sight
from pages.drawing.collections import collection_labels
from pages.drawing.figures import counted, size, when
from pages.drawing.untrusted import passage, plain

if TYPE_CHECKING:
    from backend.store.tables.documents import Document

CHUNKS_A_PAGE = 20


def details(runtime: Runtime, document: Document, collections: list[str]) -> None:
    """Chunks, versions and collections of a document."""
    chunks, versions, membership = st.tabs(["Chunks", "Versions", "Collections"])
    with chunks:
        chunk_viewer(runtime, document)
    with versions:
        version_list(runtime, document)
    with membership:
        labels = collection_labels(runtime)
        known = sorted({*labels, *collections})
        chosen = st.multiselect(
            "In these collections", known, default=collections, key=f"collections-{document.id}",
            accept_new_options=True, help="A document may be in several; nothing is embedded again.",
            format_func=lambda name: labels.get(name, name),
        )
        if sorted(chosen) != sorted(collections) and st.button("Save", key=f"save-{document.id}", type="primary"):
            try:
                runtime.collections.assign(document.id, chosen, current_sight())
                st.rerun()
            except TenfoldError as error:
                st.error(plain(error.message))


def chunk_viewer(runtime: Runtime, document: Document) -> None:
    """The chunks in force, some at a time, with a search among them."""
    chunks = runtime.documents.chunks(document.id, current_sight())
    look_for = st.text_input(
        "Find in chunks", key=f"find-{document.id}", placeholder="Find in chunks", label_visibility="collapsed",
        icon=":material/search:",
    )
    if look_for:
        chunks = [chunk for chunk in chunks if look_for.lower() in chunk.text.lower()]
    if not chunks:
        st.caption("No chunk contains this.")
        return
    pages = -(-len(chunks) // CHUNKS_A_PAGE)
    page = 1
    if pages > 1:
        page = int(st.number_input(f"Page of {pages}", 1, pages, 1, key=f"page-{document.id}-{look_for}"))
    for number, chunk in enumerate(chunks[(page - 1) * CHUNKS_A_PAGE : page * CHUNKS_A_PAGE]):
        if number:
            st.divider()
        st.caption(f"Part {chunk.position + 1} · {counted(chunk.tokens, 'token')}")
        st.markdown(passage(chunk.text))


def version_list(runtime: Runtime, document: Document) -> None:
    """The versions of a document, and what each changed."""
    for version in runtime.documents.versions(document.id, current_sight()):
        force = " :green-badge[in force]" if version.number == document.version else ""
        cut = f"{counted(version.chunk_count, 'chunk')}, {version.embedded} embedded"
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
            kept = counted(change.kept, "chunk")
            st.caption(f"{kept} kept, {len(change.added)} added, {len(change.removed)} removed")
            for mark, color, texts in (("Added", "green", change.added), ("Removed", "red", change.removed)):
                for text in texts[:10]:
                    st.markdown(f":{color}-badge[{mark}]")
                    st.markdown(passage(text))
