"""How the open chat is answered, in one line above the input: what is not as in a new chat, and where to change it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import streamlit as st

from backend.runtime import Runtime
from pages.caller import current_caller, current_sight
from pages.drawing.acts import attempt
from pages.drawing.collections import collection_labels
from pages.drawing.untrusted import opening, plain

if TYPE_CHECKING:
    from backend.chats.settings import ChatOptions, ChatSettings

UNSAVED = "new-chat-settings"
"""Those of the chat that has no question yet."""
OPENED = "chat-opened"
"""How many chats this tab opened: a browser remembers what a widget of some name said, and each is another chat's."""
ALL = ""


def settings_of(runtime: Runtime, conversation: str | None) -> ChatSettings:
    """How a conversation is answered; None: the one that has no question yet."""
    if conversation is not None:
        return runtime.conversations.settings(conversation)
    settings: ChatSettings = st.session_state.get(UNSAVED) or runtime.conversations.new_settings
    return settings


def settings_opened() -> None:
    """Another chat is opened: the next new one begins as chats begin."""
    st.session_state.pop(UNSAVED, None)
    st.session_state[OPENED] = st.session_state.get(OPENED, 0) + 1


def draw_settings(runtime: Runtime, conversation: str | None) -> ChatOptions:
    """Draw the line, and give how the next question is to be answered."""
    sight = current_sight()
    settings = settings_of(runtime, conversation)
    searchable = runtime.documents.any_searchable(sight)
    labels = {ALL: "All", **collection_labels(runtime)}
    scope = f"{conversation or 'new'}-{st.session_state.get(OPENED, 0)}"

    def change(field: str) -> Callable[[], None]:
        def save() -> None:
            now = replace(settings_of(runtime, conversation), **{field: st.session_state[f"{scope}-{field}"]})
            if conversation is None:
                st.session_state[UNSAVED] = now
            else:
                attempt(lambda: runtime.conversations.set(conversation, now))

        return save

    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall", key="chat-settings"):
        _documents(settings, labels, searchable, scope, change)
        _generation(runtime, settings, scope, change)
        for chip in _chips(runtime, settings):
            st.badge(chip, color="gray")
    return runtime.conversations.options(settings, sight, searchable=searchable, key_id=current_caller().id)


def _documents(settings: ChatSettings, labels: dict[str, str], searchable: bool, scope: str, change: Any) -> None:
    grounded = settings.grounded and searchable
    name = labels.get(settings.collection, settings.collection)
    with st.popover(
        f"Documents: {plain(opening(name, 30))}" if grounded else "Documents: off", key="chat-documents",
        icon=":material/description:" if grounded else ":material/subtitles_off:",
    ):  # fmt: skip
        st.toggle(
            "Answer from documents", value=grounded, disabled=not searchable,
            key=f"{scope}-grounded" if searchable else f"{scope}-off", on_change=change("grounded"),
            help="Answers quote documents, with numbered sources." if searchable else "There are no documents yet.",
        )  # fmt: skip
        if len(labels) > 2 or settings.collection:
            known = list(labels) if settings.collection in labels else [*labels, settings.collection]
            st.selectbox(
                "Collection", known, index=known.index(settings.collection), disabled=not grounded,
                format_func=lambda name: labels.get(name, f"{name} (deleted)"), key=f"{scope}-collection",
                on_change=change("collection"),
            )  # fmt: skip


def _generation(runtime: Runtime, settings: ChatSettings, scope: str, change: Any) -> None:
    info = runtime.engine.info
    context = info.max_model_len if info else 2048
    longest = max(32, min(4096, context // 2) // 16 * 16)
    with st.popover("Settings", icon=":material/tune:", key="chat-generation"):
        st.text_area("System prompt", settings.system, key=f"{scope}-system", on_change=change("system"),
                     placeholder="How the assistant should behave")  # fmt: skip
        st.slider("Temperature", 0.0, 2.0, settings.temperature, 0.1, key=f"{scope}-temperature",
                  on_change=change("temperature"), help="0 always takes the likeliest token.")  # fmt: skip
        st.slider("Top-p", 0.05, 1.0, settings.top_p, 0.05, key=f"{scope}-top_p", on_change=change("top_p"))
        st.slider("Repetition penalty", 1.0, 1.5, settings.repetition_penalty, 0.05,
                  key=f"{scope}-repetition_penalty", on_change=change("repetition_penalty"),
                  help="Above 1 keeps small models from going in circles.")  # fmt: skip
        st.slider("Longest answer (tokens)", 16, longest, min(settings.max_tokens, longest), 16,
                  key=f"{scope}-max_tokens", on_change=change("max_tokens"))  # fmt: skip


def _chips(runtime: Runtime, settings: ChatSettings) -> list[str]:
    """What is not as in a new chat."""
    new = runtime.conversations.new_settings
    chips = []
    if settings.system.strip():
        chips.append(plain(f"System prompt: {opening(settings.system, 24)}"))
    if settings.temperature != new.temperature:
        chips.append(f"T {settings.temperature:.1f}")
    if settings.top_p != new.top_p:
        chips.append(f"Top-p {settings.top_p:.2f}")
    if settings.repetition_penalty != new.repetition_penalty:
        chips.append(f"Repetition {settings.repetition_penalty:.2f}")
    if settings.max_tokens != new.max_tokens:
        chips.append(f"≤ {settings.max_tokens:,} tokens")
    return chips
