"""A chat's turns: questions that can be changed, answers with their sources and account, and one being written.

It draws what the backend has, and asks it to begin again; which chat is shown is the page's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

from backend.runtime import Runtime
from pages.drawing.acts import act
from pages.drawing.figures import money, rate, seconds
from pages.drawing.untrusted import passage, plain, prose

if TYPE_CHECKING:
    from backend.chats.conversations import ChatOptions
    from backend.generation.stream import Generation
    from backend.store.tables.chats import Message

TICK = 0.25
"""Seconds between two looks at an answer being written."""


def draw_message(runtime: Runtime, message: Message, *, last: bool, options: ChatOptions) -> None:
    """One finished turn, or the one being written."""
    with st.chat_message(message.role, avatar=":material/person:" if message.role == "user" else ":material/bolt:"):
        if message.role == "user":
            draw_question(runtime, message, options)
            return
        generation = runtime.conversations.writing(message.id)
        if generation is not None and not generation.ended:
            tail(runtime, generation)
            return
        if message.state == "writing":  # it ended since the messages were read
            message = runtime.conversations.message(message.id) or message
        draw_answer(message)
        if last and st.button("Regenerate", icon=":material/refresh:", type="tertiary", key=f"again-{message.id}"):
            act(lambda: runtime.conversations.regenerate(message.conversation_id, options))


def draw_question(runtime: Runtime, message: Message, options: ChatOptions) -> None:
    """A question, or the box to change it."""
    if st.session_state.get("editing") != message.id:
        with st.container(horizontal=True, vertical_alignment="top"):
            st.text(message.text)
            if st.button("", icon=":material/edit:", type="tertiary", key=f"edit-{message.id}", help="Edit and resend"):
                st.session_state["editing"] = message.id
                st.rerun()
        return
    text = st.text_area("Edit", message.text, key=f"text-{message.id}", label_visibility="collapsed")
    with st.container(horizontal=True):
        if st.button("Send", type="primary", key=f"send-{message.id}"):
            st.session_state.pop("editing")
            act(lambda: runtime.conversations.edit(message.id, text, options))
        if st.button("Cancel", key=f"cancel-{message.id}"):
            st.session_state.pop("editing")
            st.rerun()


def draw_answer(message: Message) -> None:
    """Text, sources and the account of a stored answer."""
    if message.text:
        st.markdown(prose(message.text))
    if message.state == "failed":
        st.error(plain(message.error), icon=":material/error:")
    elif message.state == "stopped":
        st.caption("Stopped." if message.text else "Stopped before the first word.")
    if why := message.details.get("unstored"):
        st.caption(
            f":orange[:material/save: Not stored yet: {plain(why)}. It is kept in memory, and storing is tried again.]"
        )
    if left_out := message.details.get("left_out"):
        st.caption(f"The chat is longer than the model's context: the {left_out} oldest messages were left out.")
    if notice := message.details.get("notice"):
        st.caption(plain(notice))
    draw_citations(message.details.get("citations", []), message.id)
    draw_cache(message.details.get("answer_cache"))
    draw_account(message.details.get("account"))


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


def draw_citations(citations: list[dict[str, Any]], key: str) -> None:
    """Numbered sources; each opens its chunk."""
    if not citations:
        return
    with st.container(horizontal=True, gap="small", key=f"sources-{key}"):
        for citation in citations:
            with st.popover(plain(f"[{citation['number']}] {citation['document']}"), help="Show the passage"):
                st.caption(f"Part {citation['position'] + 1} · score {citation['score']:.2f}")
                st.markdown(passage(citation["text"]))


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
            st.rerun()
        text = generation.text
        if text:
            st.markdown(prose(text) + " ▍")
        else:
            st.caption(f":material/hourglass_empty: {generation.note or waiting_note(runtime)}")
        if generation.cancelled:
            st.caption("Stopping…")
        else:
            st.button(
                "Stop", icon=":material/stop_circle:", key=f"stop-{generation.id}",
                on_click=runtime.generations.cancel, args=(generation,),
            )

    look()


def waiting_note(runtime: Runtime) -> str:
    """Why nothing is written yet."""
    stats = runtime.engine.stats
    ahead = stats.running if stats else 0
    return "Reading the prompt…" if ahead <= 1 else f"Reading the prompt, beside {ahead} other requests…"
