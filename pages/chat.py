"""Chat with the model and with the documents."""

from __future__ import annotations

import streamlit as st

from backend.errors import TenfoldError
from backend.runtime import Runtime, current
from pages.caller import current_caller, current_sight
from pages.drawing.acts import act, refusal
from pages.drawing.chat_client import close_sidebar, draw_client, focus_input
from pages.drawing.chat_list import draw_list, draw_wanted
from pages.drawing.chat_settings import draw_settings, settings_of, settings_opened
from pages.drawing.chat_sources import close_panel, open_source, source_panel
from pages.drawing.chat_style import draw_style
from pages.drawing.chat_welcome import draw_welcome
from pages.drawing.turns import EDITED, draw_message, draw_waiting
from pages.drawing.untrusted import plain

OPEN = "conversation"
"""The conversation that is open in this tab; the address, which another page does not keep, has it too."""
BEGUN = "chat-begun"
"""The conversation that this tab began last, for the browser to know where its draft went."""


def open_conversation(identifier: str | None) -> None:
    """Show another conversation, or the empty page."""
    st.session_state.pop(EDITED, None)
    close_panel()
    settings_opened()
    close_sidebar()
    focus_input()
    _remember(identifier)


def _remember(identifier: str | None) -> None:
    st.session_state[OPEN] = identifier
    if identifier is None:
        st.query_params.pop("c", None)
    else:
        st.query_params["c"] = identifier


def open_now(runtime: Runtime) -> str | None:
    """The conversation in the address, so that a reload or a second tab shows the same one; else the one open before.

    Says so where it is not there any more.
    """
    addressed = st.query_params.get("c")
    identifier = addressed or st.session_state.get(OPEN)
    if identifier is None:
        return None
    try:
        runtime.conversations.get(identifier, current_caller().tenant)
    except TenfoldError as error:
        if addressed:
            st.warning(plain(error.message))
        st.session_state[OPEN] = None
        return None
    if (addressed, st.session_state.get(OPEN)) != (identifier, identifier):
        _remember(identifier)
    return str(identifier)


def ask(runtime: Runtime, identifier: str | None, question: str) -> None:
    """Ask in the open conversation, or begin one; while an answer is written there, the question waits for its end."""
    caller, sight, settings = current_caller(), current_sight(), settings_of(runtime, identifier)
    searchable = runtime.documents.any_searchable(sight)
    options = runtime.conversations.options(settings, sight, searchable=searchable, key_id=caller.id)
    if identifier is None:
        identifier = runtime.conversations.create(caller.tenant, settings).id
        st.session_state[BEGUN] = identifier
        _remember(identifier)
        settings_opened()
    focus_input()
    runtime.conversations.send(identifier, question, options)


def main() -> None:
    """Draw the page."""
    runtime = current()
    draw_style()
    identifier = open_now(runtime)
    draw_list(runtime, identifier, open_conversation)
    draw_wanted(runtime, open_conversation, identifier)
    refusal()
    busy = identifier is not None and runtime.conversations.busy(identifier) is not None
    with st.bottom:
        options = draw_settings(runtime, identifier)
    question = st.chat_input("Ask the next question" if busy else "Ask a question", key="question")
    picked = None
    branch = runtime.conversations.branch(identifier) if identifier else None
    if branch is not None and branch.turns:
        for turn in branch.turns:
            draw_message(runtime, turn, branch.beside[turn.id], options)
        for waiting in runtime.conversations.waiting(identifier or ""):
            draw_waiting(runtime, identifier or "", waiting)
    else:
        picked = draw_welcome(runtime)
    source_panel(runtime, identifier)
    draw_client(identifier, open_source)
    if question := question or picked:
        act(lambda: ask(runtime, identifier, question))


main()
