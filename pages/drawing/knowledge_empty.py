"""What to do while there are no documents: the samples are one press away."""

from __future__ import annotations

import streamlit as st

from backend.runtime import Runtime
from pages.drawing.acts import press
from pages.drawing.figures import counted
from pages.drawing.knowledge_access import may_change


def nothing_yet(runtime: Runtime, title: str, what: str) -> None:
    """Say that nothing is here, and what to do."""
    with st.container(border=True):
        st.markdown(f"#### {title}")
        if not may_change():
            st.write(what)
            return
        samples = counted(len(runtime.samples.names), "short sample document")
        st.write(f"{what}, or try it with {samples}: a lighthouse, a coffee machine and a bike sharing scheme.")
        press("Load the sample documents", runtime.samples.load, key="load-samples", type="primary")
