"""Upload documents and see what became of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import streamlit as st

from backend.errors import TenfoldError
from backend.knowledge.documents import DEFAULT_COLLECTION, PENDING
from backend.knowledge.parse import SUPPORTED
from backend.runtime import Runtime, current
from backend.store.tables import Document
from pages.formatting import passage, seconds, size, when

STATES = {
    "queued": ":gray-badge[:material/schedule: queued]",
    "parsing": ":blue-badge[:material/article: reading]",
    "embedding": ":blue-badge[:material/hub: embedding]",
    "ready": ":green-badge[:material/check: ready]",
    "failed": ":red-badge[:material/error: failed]",
}


def pieces(file: Any) -> Iterator[bytes]:
    """An uploaded file's bytes, a megabyte at a time."""
    file.seek(0)
    while piece := file.read(1 << 20):
        yield piece


def uploader(runtime: Runtime) -> None:
    """Drop files; they are taken in as soon as they are here."""
    generation = st.session_state.setdefault("uploads", 0)
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    with right:
        collection = st.text_input("Collection", DEFAULT_COLLECTION, help="A new name makes a new collection.")
    with left:
        files = st.file_uploader(
            f"Drop files: {', '.join(s.removeprefix('.') for s in SUPPORTED)}; at most "
            f"{runtime.settings.max_upload_mb} MB each",
            accept_multiple_files=True,
            key=f"uploader-{generation}",
        )
    if not files:
        return
    refused = []
    for file in files:
        try:
            runtime.documents.upload(file.name, pieces(file), collection)
        except TenfoldError as error:
            refused.append(error.message)
    st.session_state["refused"] = refused
    st.session_state["uploads"] = generation + 1  # a new key lets go of the files' memory
    st.rerun()


def row(runtime: Runtime, document: Document) -> None:
    """One document."""
    with st.container(border=True):
        name, state, facts, buttons = st.columns([4, 1.6, 5, 2.6], vertical_alignment="center")
        name.markdown(f"**{document.name.replace('$', chr(92) + '$')}**")
        state.markdown(STATES[document.state])
        if document.state == "ready":
            reused = f", {document.reused} known already" if document.reused else ""
            facts.caption(
                f"{size(document.size)} · {document.chunk_count} chunks{reused} · read in {seconds(document.seconds)} "
                f"· {when(document.created)}"
            )
        elif document.state == "failed":
            facts.caption(f"{size(document.size)} · {when(document.created)}")
        else:
            facts.progress(document.progress, text=size(document.size))
        with buttons.container(horizontal=True, horizontal_alignment="right"):
            if document.state == "ready" and st.button("Chunks", key=f"chunks-{document.id}"):
                st.session_state["shown"] = None if st.session_state.get("shown") == document.id else document.id
                st.rerun()
            if document.state == "failed" and st.button("Retry", key=f"retry-{document.id}"):
                runtime.documents.retry(document.id)
                st.rerun()
            if st.button("", icon=":material/delete:", key=f"delete-{document.id}", help="Delete"):
                runtime.documents.delete(document.id)
                st.rerun()
        if document.state == "failed":
            st.error(document.reason, icon=":material/error:")
        if st.session_state.get("shown") == document.id:
            for chunk in runtime.documents.chunks(document.id)[:50]:
                st.caption(f"Part {chunk.position + 1} · {chunk.tokens} tokens")
                st.markdown(passage(chunk.text))
                st.divider()
            if document.chunk_count > 50:
                st.caption(f"The first 50 of {document.chunk_count} chunks are shown.")


def empty(runtime: Runtime) -> None:
    """What to do when there is nothing yet."""
    with st.container(border=True, horizontal_alignment="center"):
        st.markdown("#### No documents yet")
        st.write("Drop files above, or try it with three short sample documents.")
        if st.button("Load the sample documents", type="primary", icon=":material/library_add:"):
            runtime.load_samples()
            st.rerun()


def table(runtime: Runtime) -> None:
    """All documents; redrawn while some are being read."""
    working = runtime.documents.pending > 0

    @st.fragment(run_every=0.5 if working else None)
    def rows() -> None:
        documents = runtime.documents.find()
        if working and not any(d.state in PENDING for d in documents):
            st.rerun()
        for document in documents[:100]:
            row(runtime, document)
        if len(documents) > 100:
            st.caption(f"The latest 100 of {len(documents)} documents are shown.")

    rows()


def summary(runtime: Runtime) -> None:
    """What is known, and what the embedding cache saved."""
    documents = runtime.documents.find()
    cache = runtime.embeddings.statistics()
    with st.container(horizontal=True):
        st.metric("Documents", len(documents), border=True)
        st.metric("Chunks", sum(d.chunk_count for d in documents if d.state == "ready"), border=True)
        st.metric("Vectors kept", cache["entries"], border=True, help=size(cache["bytes"]))
        st.metric(
            "Embeddings not computed again", cache["hits"], border=True,
            help=f"{cache['tokens_saved']:,} tokens that the model did not have to read again.",
        )


def main() -> None:
    """Draw the page."""
    runtime = current()
    st.title("Documents")
    uploader(runtime)
    for message in st.session_state.pop("refused", []):
        st.error(message)
    if not runtime.documents.find():
        empty(runtime)
        return
    summary(runtime)
    table(runtime)


main()
