"""What a press does: it may be refused, also because another page was quicker, and the page then says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from backend.errors import TenfoldError
from pages.drawing.untrusted import plain

REFUSED = "act-refused"
ACTED = "act-done"
PRESSED = "act-pressed"
"""The drawing of the button that was pressed last."""


def act(action: Callable[[], object]) -> None:
    """Do something and draw the page anew, with the reason where it was refused."""
    attempt(action)
    st.rerun()


def press(
    label: str, action: Callable[[], object], *, key: str, place: DeltaGenerator | None = None, **more: Any
) -> None:
    """A button of something that another page may change or delete meanwhile.

    The action is done before the page is drawn anew, so a press is never lost with the button that it was made on; and
    once, although a page that is drawn anew from within a fragment hears of the press that led there again.

    Args:
        label: what the button says.
        action: what it does; a `TenfoldError` becomes the reason that the page shows.
        key: the button's own.
        place: where it stands; None for where the page is being drawn.
        more: what else `st.button` takes.
    """
    (place or st).button(label, key=key, on_click=_once, args=(action, object()), **more)


def press_after_asking(
    label: str, question: str, action: Callable[[], object], *, key: str, yes: str = "Delete",
    place: DeltaGenerator | None = None, **more: Any,
) -> None:  # fmt: skip
    """A button of what cannot be undone: it opens a question, and only the button in there acts.

    Args:
        label: what the button says.
        question: what is lost; plain text, which may be strangers'.
        action: as of `press`.
        key: the button's own; that which acts has `-yes` behind it.
        yes: what the button that acts says.
        place: where it stands; None for where the page is being drawn.
        more: what else `st.popover` takes.
    """
    with (place or st).popover(label, key=key, **more):
        st.markdown(plain(question))
        press(yes, action, key=f"{key}-yes", type="primary", width="stretch")


def refusal() -> None:
    """Say why the last press did nothing. For a page, which is then up to date."""
    st.session_state.pop(ACTED, None)
    if message := st.session_state.pop(REFUSED, None):
        st.error(plain(message))


def after_press() -> None:
    """Draw the whole page where only this fragment would be drawn after a press in it. First in such a fragment."""
    if ACTED in st.session_state:
        st.rerun()


def _once(action: Callable[[], object], drawn: object) -> None:
    """Do what a button stands for, unless it was done for this very drawing of it."""
    if st.session_state.get(PRESSED) is drawn:
        return
    st.session_state[PRESSED] = drawn
    attempt(action)


def attempt(action: Callable[[], object]) -> None:
    """Do something for a callback; where it is refused, the page that follows says why."""
    st.session_state[ACTED] = True
    try:
        action()
    except TenfoldError as error:
        st.session_state[REFUSED] = error.message
