"""The chats in the sidebar, by day: one line each, with a menu to rename, take along and delete."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone, tzinfo
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import streamlit as st

from backend.errors import TenfoldError
from backend.runtime import Runtime, current
from pages.caller import current_caller
from pages.drawing.acts import act, attempt
from pages.drawing.chat_client import save_file
from pages.drawing.untrusted import plain

if TYPE_CHECKING:
    from backend.store.tables.chats import Conversation

AT_ONCE = 30
"""Chats that are listed before somebody asks for more."""
WANTED = "chat-wanted"
"""What was chosen in a chat's menu, and of which chat."""
RENAME, EXPORT, DELETE = "Rename", "Export", "Delete"


def draw_list(runtime: Runtime, active: str | None, choose: Callable[[str | None], None]) -> None:
    """The list, with a search and a button for a new chat.

    Args:
        runtime: whose chats.
        active: the one that is open.
        choose: opens one, or none for a new one.
    """
    with st.sidebar, st.container(key="chat-list", gap="xsmall"):
        st.button("New chat", icon=":material/edit_square:", width="stretch", on_click=choose, args=(None,))
        search = st.text_input(
            "Search chats", placeholder="Search chats", label_visibility="collapsed", key="search",
            icon=":material/search:",
        )  # fmt: skip
        most = st.session_state.get("chats-shown", AT_ONCE)
        found = runtime.conversations.latest(search, most + 1, current_caller().tenant)
        if not found:
            st.caption("Nothing found." if search else "Your chats will be listed here.")
        zone = reader_zone()
        today, heading = datetime.now(zone).date(), ""
        for conversation in found[:most]:
            day = day_name(datetime.fromtimestamp(conversation.updated, zone).date(), today)
            if day != heading:
                heading = day
                st.caption(day)
            draw_row(conversation, open_now=conversation.id == active, choose=choose)
        if len(found) > most:
            st.button("Show more", type="tertiary", width="stretch", on_click=_show_more, args=(most,))


def draw_row(conversation: Conversation, *, open_now: bool, choose: Callable[[str | None], None]) -> None:
    """One chat, and its menu."""
    identifier, title = conversation.id, plain(conversation.title)
    state = "open" if open_now else "other"
    with st.container(horizontal=True, wrap=False, gap=None, key=f"chat-row-{state}-{identifier}"):
        st.button(
            title, key=f"open-{identifier}", type="tertiary", width="stretch", wrap=False, on_click=choose,
            args=(identifier,),
        )  # fmt: skip
        st.menu_button(
            f"Menu of {title}", [RENAME, EXPORT, DELETE], key=f"menu-{identifier}", type="tertiary",
            icon=":material/more_horiz:", on_click=_want, args=(identifier,), width="content", wrap=False,
        )  # fmt: skip


def day_name(day: date, today: date) -> str:
    """What a person calls a day: Today, Yesterday, Wednesday, 12 March, 12 March 2025."""
    ago = (today - day).days
    if ago <= 1:
        return "Yesterday" if ago == 1 else "Today"
    if ago < 7:
        return day.strftime("%A")
    return f"{day.day} {day:%B}" + ("" if day.year == today.year else f" {day.year}")


def reader_zone() -> tzinfo:
    """The time zone of whoever looks; where their browser does not say, its distance from UTC."""
    try:
        return ZoneInfo(st.context.timezone or "")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return timezone(timedelta(minutes=-(st.context.timezone_offset or 0)))


def draw_wanted(runtime: Runtime, choose: Callable[[str | None], None], active: str | None) -> None:
    """Do what was chosen in a chat's menu, or ask first."""
    what, identifier = st.session_state.get(WANTED, (None, ""))
    if what is None:
        return
    try:
        conversation = runtime.conversations.get(identifier, current_caller().tenant)
    except TenfoldError:
        _done()
        return
    if what == RENAME:
        _rename(runtime, conversation)
    else:
        _delete(runtime, conversation, choose, active)


def export(runtime: Runtime, identifier: str) -> None:
    """Save a chat as a file."""
    conversation = runtime.conversations.get(identifier, current_caller().tenant)
    name = "".join(c if c.isalnum() or c in " -_" else "" for c in conversation.title).strip()[:60]
    save_file(f"{name or 'conversation'}.md", runtime.conversations.export(identifier))


def _want(identifier: str) -> None:
    what = st.session_state[f"menu-{identifier}"]
    if what == EXPORT:
        attempt(lambda: export(current(), identifier))
    else:
        st.session_state[WANTED] = (what, identifier)


def _done() -> None:
    st.session_state.pop(WANTED, None)


def _show_more(most: int) -> None:
    st.session_state["chats-shown"] = most + 3 * AT_ONCE


def _rename(runtime: Runtime, conversation: Conversation) -> None:
    @st.dialog("Rename chat", on_dismiss=_done)
    def ask() -> None:
        with st.form("rename", border=False):
            title = st.text_input("Title", value=conversation.title)
            if st.form_submit_button("Save", type="primary"):
                _done()
                act(lambda: runtime.conversations.rename(conversation.id, title))

    ask()


def _delete(
    runtime: Runtime, conversation: Conversation, choose: Callable[[str | None], None], active: str | None
) -> None:
    @st.dialog("Delete chat?", on_dismiss=_done)
    def ask() -> None:
        st.markdown(f"“{plain(conversation.title)}” is deleted with all its answers. This cannot be undone.")
        with st.container(horizontal=True, horizontal_alignment="right"):
            if st.button("Cancel", key="keep-chat"):
                _done()
                st.rerun()
            if st.button("Delete", key="delete-chat", type="primary"):
                _done()
                if conversation.id == active:
                    choose(None)
                act(lambda: runtime.conversations.delete(conversation.id))

    ask()
