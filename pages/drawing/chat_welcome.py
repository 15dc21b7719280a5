"""A chat that has no question yet: what to do first. One press on a suggestion is enough to see a cited answer."""

from __future__ import annotations

import streamlit as st

from backend.runtime import Runtime
from pages.caller import current_sight
from pages.drawing.acts import press
from pages.drawing.figures import counted

SUGGESTIONS = [
    "How many steps does the lighthouse tower have?",
    "Who was the last resident keeper of the lighthouse?",
    "Which bike sharing station is the busiest?",
]
PICKED = "suggestion"
"""The question that is asked as soon as the documents are read that answer it."""
TICK = 0.25
"""Seconds between two looks at whether they are."""


def draw_welcome(runtime: Runtime) -> str | None:
    """The empty page. Returns the question that was picked, once it can be answered."""
    st.markdown("## What would you like to know?")
    sight = current_sight()
    documents = runtime.documents.latest(sight)
    if any(runtime.documents.is_pending(document) for document in documents):
        _reading(runtime)
        return None
    picked: str | None = st.session_state.pop(PICKED, None)
    read = any(document.build for document in documents)
    if documents and not read:
        st.warning("None of the documents could be read; the Knowledge page says why of each.")
    samples = any(d.name in runtime.samples.names and d.state == "ready" for d in documents)
    if picked is not None and samples:
        return picked
    if read and not samples:
        st.write("Ask anything below. With *Documents* on, answers quote what you uploaded.")
        return None
    if samples:
        st.write("Ask anything below, or begin with one of these:")
    else:
        st.write("Try it on three short sample documents, or upload your own on the Knowledge page.")
    with st.container(key="chat-suggestions", gap="xsmall"):
        for number, suggestion in enumerate(SUGGESTIONS):
            press(
                suggestion, lambda s=suggestion: pick(runtime, s, load=not samples),  # type: ignore[misc]
                key=f"suggestion-{number}", icon=":material/arrow_forward:", width="stretch",
            )  # fmt: skip
    if not samples:
        press("Load the sample documents", runtime.samples.load, key="load-samples", type="primary",
              icon=":material/library_add:")  # fmt: skip
    return None


def pick(runtime: Runtime, suggestion: str, *, load: bool) -> None:
    """Have Chat ask a question about the sample documents as soon as they are read; `load` them first where needed."""
    st.session_state[PICKED] = suggestion
    if load:
        runtime.samples.load()


def _reading(runtime: Runtime) -> None:
    sight = current_sight()
    picked = st.session_state.get(PICKED)

    @st.fragment(run_every=TICK)
    def look() -> None:
        left = runtime.documents.pending(sight)
        if not left:
            st.rerun()
        then = "; then your question is answered" if picked else ""
        st.info(f"Reading {counted(left, 'document')}{then}…", icon="⏳")

    look()
