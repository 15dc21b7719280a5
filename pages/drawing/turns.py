"""A chat's turns: questions that can be changed, answers with their sources and account, and one being written.

It draws what the backend has, and asks it to begin again; which chat is shown is the page's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

from backend.runtime import Runtime
from pages.drawing.acts import act, press
from pages.drawing.chat_client import copy_button, focus_input
from pages.drawing.chat_sources import draw_sources, marked_prose
from pages.drawing.figures import money, rate, seconds
from pages.drawing.untrusted import plain, prose

if TYPE_CHECKING:
    from backend.chats.conversations import ChatOptions
    from backend.chats.line import Waiting
    from backend.generation.stream import Generation
    from backend.store.tables.chats import Message

TICK = 0.25
"""Seconds between two looks at an answer being written."""
EDITED = "editing"
"""The question that is being changed."""


def draw_message(runtime: Runtime, message: Message, beside: tuple[str, ...], options: ChatOptions) -> None:
    """One turn.

    Args:
        runtime: whose chats.
        message: the turn.
        beside: the ids of all turns that stand in its place on some branch, its own among them.
        options: how to answer what is asked from here.
    """
    kind = "question" if message.role == "user" else "answer"
    avatar = ":material/person:" if kind == "question" else ":material/bolt:"
    with st.container(key=f"{kind}-{message.id}"), st.chat_message(message.role, avatar=avatar):
        if kind == "question":
            draw_question(runtime, message, beside, options)
            return
        generation = runtime.conversations.writing(message.id)
        if generation is not None:
            tail(runtime, generation)
            return
        if message.state == "writing":  # it ended since the messages were read
            message = runtime.conversations.message(message.id) or message
        draw_answer(message)
        draw_actions(runtime, message, beside, options)


def draw_waiting(runtime: Runtime, conversation: str, waiting: Waiting) -> None:
    """A question that was sent while an answer was being written."""
    with st.container(key=f"question-{waiting.id}"), st.chat_message("user", avatar=":material/person:"):
        st.text(waiting.text)
        with st.container(horizontal=True, vertical_alignment="center", gap="xsmall", key=f"actions-{waiting.id}"):
            with st.container(width="content"):
                st.caption(":material/schedule: Sent when the answer above is done")
            press("Take back", lambda: take_back(runtime, conversation, waiting), key=f"withdraw-{waiting.id}",
                  type="tertiary")  # fmt: skip


def take_back(runtime: Runtime, conversation: str, waiting: Waiting) -> None:
    """Put a question that waits back into the input."""
    runtime.conversations.withdraw(conversation, waiting.id)
    st.session_state["question"] = waiting.text
    focus_input()


def draw_question(runtime: Runtime, message: Message, beside: tuple[str, ...], options: ChatOptions) -> None:
    """A question, or the box to change it."""
    if st.session_state.get(EDITED) != message.id:
        st.text(message.text)
        with st.container(horizontal=True, vertical_alignment="center", gap=None, key=f"actions-{message.id}"):
            draw_branches(runtime, message, beside)
            with st.container(key=f"icon-edit-{message.id}", width="content"):
                st.button(
                    "Edit", icon=":material/edit:", type="tertiary", key=f"edit-{message.id}",
                    help="Edit and send again; this version is kept", on_click=_edit, args=(message.id,),
                )  # fmt: skip
        return
    with st.form(f"editing-{message.id}", border=False):
        text = st.text_area("Edit the question", message.text, label_visibility="collapsed")
        with st.container(horizontal=True, horizontal_alignment="right"):
            if st.form_submit_button("Cancel"):
                _edit(None)
                st.rerun()
            if st.form_submit_button("Send", type="primary"):
                _edit(None)
                focus_input()
                act(lambda: runtime.conversations.edit(message.id, text, options))


def draw_answer(message: Message) -> None:
    """Text, sources and the account of a stored answer."""
    if message.text:
        st.markdown(marked_prose(message.text, message.details.get("marks", []), message.id))
    if message.state == "failed":
        st.error(plain(message.error), icon=":material/error:")
    elif message.state == "stopped":
        st.caption("Stopped." if message.text else "Stopped before the first word.")
    elif message.details.get("finish_reason") == "length":
        st.caption(":material/content_cut: Cut at the longest answer allowed.")
    if why := message.details.get("unstored"):
        st.caption(
            f":orange[:material/save: Not stored yet: {plain(why)}. It is kept in memory, and storing is tried again.]"
        )
    if left_out := message.details.get("left_out"):
        st.caption(f"The chat is longer than the model's context: the {left_out} oldest messages were left out.")
    if notice := message.details.get("notice"):
        st.caption(plain(notice))
    draw_sources(message.id, message.details)
    draw_cache(message.details.get("answer_cache"))


def draw_actions(runtime: Runtime, message: Message, beside: tuple[str, ...], options: ChatOptions) -> None:
    """What can be done with an answer, and what it took."""
    with st.container(horizontal=True, vertical_alignment="center", gap=None, key=f"actions-{message.id}"):
        if message.text:
            copy_button(message.text, key=f"copy-{message.id}")
        with st.container(key=f"icon-again-{message.id}", width="content"):
            press("Regenerate", lambda: _again(runtime, message, options), key=f"again-{message.id}", type="tertiary",
                  icon=":material/refresh:", help="Answer once more; this answer is kept")  # fmt: skip
        draw_branches(runtime, message, beside)
        if runtime.conversations.can_go_on(message):
            press("Continue", lambda: runtime.conversations.go_on(message.id, options), key=f"more-{message.id}",
                  icon=":material/play_arrow:", type="tertiary")  # fmt: skip
        draw_account(message.details.get("account"))


def _again(runtime: Runtime, message: Message, options: ChatOptions) -> None:
    runtime.conversations.regenerate(message.id, options)
    focus_input()


def draw_branches(runtime: Runtime, message: Message, beside: tuple[str, ...]) -> None:
    """Which of several versions of a turn this is, and the ways to those beside it."""
    if len(beside) < 2:
        return
    at = beside.index(message.id)

    def way(label: str, icon: str, to: int) -> None:
        target = beside[to] if 0 <= to < len(beside) else message.id
        with st.container(key=f"icon-{label.split()[0].lower()}-{message.id}", width="content"):
            press(label, lambda: runtime.conversations.show(target), key=f"{label.split()[0].lower()}-{message.id}",
                  icon=icon, type="tertiary", disabled=target == message.id)  # fmt: skip

    way("Previous version", ":material/chevron_left:", at - 1)
    with st.container(width="content"):
        st.caption(f"{at + 1} / {len(beside)}")
    way("Next version", ":material/chevron_right:", at + 1)


def draw_cache(details: dict[str, str] | None) -> None:
    """That an answer was given before, and to which question."""
    if details is None:
        return
    if details["kind"] == "exact":
        st.caption(":material/bolt: Answered before; nothing was computed. *Regenerate* asks the model again.")
    else:
        st.caption(
            f":orange[:material/join: The stored answer to a like question] ({details['similarity']}): "
            f"“{plain(details['question'])}”. *Regenerate* asks the model."
        )


def draw_account(account: dict[str, Any] | None) -> None:
    """The line under an answer."""
    if account is None:
        return
    parts = [
        f"first token {seconds(account['ttft'])}",
        rate(account["tokens_per_second"]),
        f"{account['prompt_tokens']} in · {account['cached_tokens']} cached · {account['output_tokens']} out",
        plain(money(account["cost"])),
    ]
    st.caption(" · ".join(parts))


def tail(runtime: Runtime, generation: Generation) -> None:
    """Show an answer as it is written. The page only looks on; the answer belongs to the backend."""

    @st.fragment(run_every=TICK)
    def look() -> None:
        if generation.ended:
            focus_input()
            st.rerun()
        text = generation.text
        if text.strip():
            st.markdown(prose(text) + " ▍")
        else:
            st.caption(f":material/hourglass_empty: {generation.note or waiting_note(runtime)}")
        if generation.cancelled:
            st.caption("Stopping…")
        else:
            st.button(
                "Stop", icon=":material/stop_circle:", key=f"stop-{generation.id}", shortcut="Esc",
                on_click=runtime.generations.cancel, args=(generation,),
            )  # fmt: skip

    look()


def waiting_note(runtime: Runtime) -> str:
    """Why nothing is written yet."""
    stats = runtime.engine.stats
    ahead = stats.running if stats else 0
    return "Reading the prompt…" if ahead <= 1 else f"Reading the prompt, beside {ahead} other requests…"


def _edit(message_id: str | None) -> None:
    st.session_state[EDITED] = message_id
