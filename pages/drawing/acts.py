"""What a press does: it may be refused, also because another page was quicker, and the page then says why."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from backend.errors import TenfoldError
from pages.drawing.untrusted import plain

REFUSED = "act-refused"


def act(action: Callable[[], object]) -> None:
    """Do something and draw the page anew, with the reason where it was refused."""
    try:
        action()
    except TenfoldError as error:
        st.session_state[REFUSED] = error.message
    st.rerun()


def refusal() -> None:
    """Say why the last press did nothing."""
    if message := st.session_state.pop(REFUSED, None):
        st.error(plain(message))
