"""What the chat asks of the browser itself, where Streamlit has no word for it; the scripts are in `data/assets`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st

ASSETS = Path(__file__).parents[2] / "data" / "assets"
NEW = "new"
"""How the browser names the chat that has no question yet."""

_client = st.components.v2.component("tenfold_chat", js=(ASSETS / "chat.js").read_text())
_copy = st.components.v2.component(
    "tenfold_copy",
    html='<button type="button" aria-label="Copy"><svg viewBox="0 0 24 24" aria-hidden="true"><path/></svg></button>'
    '<span role="status"></span>',
    css="""
    :host, div { display: flex; align-items: center; }
    button { all: unset; display: grid; place-items: center; width: 32px; height: 32px; border-radius: 8px;
             cursor: pointer; color: inherit; opacity: 0.75; }
    button:hover { opacity: 1; background: var(--st-secondary-background-color); }
    button:focus-visible { opacity: 1; outline: 2px solid var(--st-primary-color); }
    svg { width: 18px; height: 18px; fill: none; stroke: var(--st-text-color); stroke-width: 1.6;
          stroke-linecap: round; stroke-linejoin: round; }
    span { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
    """,
    js=(ASSETS / "copy.js").read_text(),
)


def focus_input() -> None:
    """Have the cursor put into the question's box when the page is drawn, unless somebody types elsewhere."""
    st.session_state["chat-focus"] = st.session_state.get("chat-focus", 0) + 1


def close_sidebar() -> None:
    """Have a phone's sidebar closed, which hides what was chosen in it."""
    st.session_state["chat-close"] = st.session_state.get("chat-close", 1) + 1


def save_file(name: str, text: str) -> None:
    """Have the browser save a text as a file when the page is drawn."""
    st.session_state["chat-file"] = {"name": name, "text": text, "number": time.time_ns() // 1000}


def draw_client(conversation: str | None, on_source: Callable[[str], None]) -> None:
    """Hand over what is wanted. Once on a page.

    Args:
        conversation: which is open; its draft is kept by the browser.
        on_source: called with what stands behind `#source-` in a link that was pressed.
    """
    data: dict[str, Any] = {
        "conversation": conversation or NEW,
        "begun": st.session_state.get("chat-begun"),
        "focus": st.session_state.get("chat-focus", 0),
        "close": st.session_state.get("chat-close", 1),
        "file": st.session_state.pop("chat-file", None),
    }

    def pressed() -> None:
        on_source(str(st.session_state["chat-client"].source))

    with st.container(key="chat-browser"):
        _client(key="chat-client", data=data, on_source_change=pressed)


def copy_button(text: str, key: str) -> None:
    """A button that puts a text on the clipboard."""
    _copy(key=key, data={"text": text}, width="content")
