"""Chat with the model and with the documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import streamlit as st

from backend.errors import TenfoldError
from backend.runtime import Runtime, current
from pages.caller import current_caller, current_sight
from pages.drawing.acts import act, refusal
from pages.drawing.collections import collection_labels
from pages.drawing.turns import draw_message
from pages.drawing.untrusted import opening, plain

if TYPE_CHECKING:
    from backend.chats.conversations import ChatOptions

EVERYTHING = "All documents"
SUGGESTIONS = [
    "How many steps does the lighthouse tower have?",
    "Who was the last resident keeper of the lighthouse?",
    "Which bike sharing station is the busiest?",
]


def conversation_id() -> str | None:
    """The conversation in the address, so that a reload or a second tab shows the same one."""
    return st.query_params.get("c")


def open_conversation(identifier: str | None) -> None:
    """Show another conversation, or the empty page."""
    st.session_state.pop("editing", None)
    if identifier is None:
        st.query_params.pop("c", None)
    else:
        st.query_params["c"] = identifier


# ---- the sidebar -------------------------------------------------------------------------------------------------


def sidebar(runtime: Runtime) -> None:
    """The list of conversations."""
    with st.sidebar:
        if st.button("New chat", icon=":material/edit_square:", width="stretch", type="primary"):
            open_conversation(None)
            st.rerun()
        search = st.text_input(
            "Search", placeholder="Search chats", label_visibility="collapsed", key="search", icon=":material/search:"
        )
        found = runtime.conversations.latest(search, tenant=current_caller().tenant)
        if not found:
            st.caption("Nothing found." if search else "Your chats will be listed here.")
        active = conversation_id()
        for conversation in found[:50]:
            title = conversation.title
            label = plain(opening(title, 26))
            kind: Literal["secondary", "tertiary"] = "secondary" if conversation.id == active else "tertiary"
            if st.button(label, key=f"open-{conversation.id}", type=kind, width="stretch", help=plain(title)):
                open_conversation(conversation.id)
                st.rerun()


# ---- settings ----------------------------------------------------------------------------------------------------


def options_bar(runtime: Runtime, conversation: str | None) -> ChatOptions:
    """Documents on or off, settings, and what can be done with the conversation."""
    sight = current_sight()
    labels = {EVERYTHING: EVERYTHING, **collection_labels(runtime)}
    ready = runtime.documents.any_searchable(sight)
    with st.container(horizontal=True, vertical_alignment="center"):
        grounded = st.toggle(
            "Answer from documents",
            value=ready,
            disabled=not ready,
            key="grounded" if ready else "grounded-off",
            help="Answers quote the uploaded documents, with numbered sources."
            if ready
            else "Upload a document first, on the Knowledge page.",
        )
        with st.popover("Settings", icon=":material/tune:"):
            collection = ""
            if len(labels) > 2:
                chosen = st.selectbox(
                    "Collection", list(labels), format_func=labels.__getitem__, key="answer-from",
                    persist_state="session",
                )
                collection = "" if chosen == EVERYTHING else chosen
            system = st.text_area(
                "System prompt", key="system", placeholder="How the assistant should behave", persist_state="session"
            )
            temperature = st.slider("Temperature", 0.0, 2.0, 0.0, 0.1, key="temperature", persist_state="session",
                                    help="0 always takes the likeliest token.")
            top_p = st.slider("Top-p", 0.05, 1.0, 0.9, 0.05, key="top_p", persist_state="session")
            repetition = st.slider("Repetition penalty", 1.0, 1.5, 1.0, 0.05, key="repetition", persist_state="session",
                                   help="Above 1 keeps small models from going in circles.")
            info = runtime.engine.info
            context = info.max_model_len if info else 2048
            longest = max(32, min(4096, context // 2) // 16 * 16)
            max_tokens = st.slider("Longest answer (tokens)", 16, longest, min(256, longest), 16, key="max_tokens",
                                   persist_state="session")
        if conversation is not None:
            conversation_menu(runtime, conversation)
    return runtime.conversations.options(
        system=system or "",
        temperature=temperature,
        top_p=top_p,
        repetition_penalty=repetition,
        max_tokens=max_tokens,
        collection=collection if grounded and ready else None,
        sight=sight,
    )


def conversation_menu(runtime: Runtime, conversation: str) -> None:
    """Rename, export, delete."""
    with st.popover("Chat", icon=":material/more_horiz:"):
        title = st.text_input("Title", value=runtime.conversations.get(conversation).title, key=f"title-{conversation}")
        if st.button("Rename", width="stretch"):
            try:
                runtime.conversations.rename(conversation, title)
                st.rerun()
            except TenfoldError as error:
                st.error(plain(error.message))
        st.download_button(
            "Export as Markdown",
            runtime.conversations.export(conversation),
            file_name="conversation.md",
            mime="text/markdown",
            width="stretch",
        )
        if st.button("Delete", width="stretch", icon=":material/delete:"):
            runtime.conversations.delete(conversation)
            open_conversation(None)
            st.rerun()


# ---- the page ----------------------------------------------------------------------------------------------------


def welcome(runtime: Runtime) -> str | None:
    """The empty page: what to do first. Returns a question if one was picked."""
    st.markdown("## What would you like to know?")
    sight = current_sight()
    documents = runtime.documents.latest(sight)
    read = any(d.build for d in documents)
    pending = any(runtime.documents.is_pending(d) for d in documents)
    if documents and not read and not pending:
        st.warning("None of the documents could be read; the Knowledge page says why of each.")
    if not read and not pending:
        st.write("Load three short sample documents and ask about them, or upload your own on the Knowledge page.")
        if st.button("Load the sample documents", type="primary", icon=":material/library_add:"):
            act(runtime.samples.load)
        return None
    if pending:

        @st.fragment(run_every=0.5)
        def reading() -> None:
            left = runtime.documents.pending(sight)
            if not left:
                st.rerun()
            st.info(f"Reading {left} document{'s' if left > 1 else ''}…", icon="⏳")

        reading()
        return None
    if not any(d.name in runtime.samples.names and d.state == "ready" for d in documents):
        st.write("Ask anything below. With *Answer from documents* on, answers quote what you uploaded.")
        return None
    st.write("Ask anything below, or begin with one of these:")
    for number, suggestion in enumerate(SUGGESTIONS):
        if st.button(suggestion, key=f"suggestion-{number}", icon=":material/arrow_forward:"):
            return suggestion
    return None


def main() -> None:
    """Draw the page."""
    runtime = current()
    sidebar(runtime)
    identifier = conversation_id()
    if identifier is not None:
        try:
            runtime.conversations.get(identifier, current_caller().tenant)
        except TenfoldError as error:
            st.warning(plain(error.message))
            identifier = None
    options = options_bar(runtime, identifier)
    refusal()
    messages = runtime.conversations.messages(identifier) if identifier else []
    for i, turn in enumerate(messages):
        draw_message(runtime, turn, last=i == len(messages) - 1, options=options)
    suggestion = None if messages else welcome(runtime)
    busy = identifier is not None and runtime.conversations.busy(identifier) is not None
    question = st.chat_input("An answer is being written…" if busy else "Ask a question", disabled=busy) or suggestion
    if question:
        if identifier is None:
            identifier = runtime.conversations.create(current_caller().tenant).id
            open_conversation(identifier)
        asked = identifier
        act(lambda: runtime.conversations.ask(asked, question, options))


main()
