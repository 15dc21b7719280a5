"""Who looks at a page, as the gate has named them."""

from __future__ import annotations

import streamlit as st

from backend.access.caller import Caller, caller_from_headers


def current_caller() -> Caller:
    """The caller whose page is being drawn. The headers are those of its websocket, where the gate put the name."""
    return caller_from_headers(st.context.headers)
