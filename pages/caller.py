"""Who looks at a page, as the gate has named them, and what of the documents they see."""

from __future__ import annotations

import streamlit as st

from backend.access.caller import Caller, caller_from_headers
from backend.knowledge.sight import Sight, sight_of


def current_caller() -> Caller:
    """The caller whose page is being drawn. The headers are those of its websocket, where the gate put the name."""
    return caller_from_headers(st.context.headers)


def current_sight() -> Sight:
    """What the caller whose page is being drawn sees of the collections."""
    return sight_of(current_caller())
