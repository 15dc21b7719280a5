"""Keys: making one, which is shown once, and a row for each that works, with what it may and when it was used."""

from __future__ import annotations

from functools import partial

import streamlit as st

from backend.access.caller import Role
from backend.runtime import Runtime
from pages.drawing.acts import press_after_asking
from pages.drawing.figures import when
from pages.drawing.key_limits import in_words, installation_limits, key_limits
from pages.drawing.untrusted import plain

MAY = {
    Role.ADMIN: "do everything",
    Role.USER: "chat, use documents, jobs and the API",
    Role.READ_ONLY: "look and search",
}
MADE = "key-made"
"""The key that was made on this page, while it is open: nobody can show it again."""


def made_key() -> str:
    """The key that was just made; empty where none was."""
    return str(st.session_state.get(MADE, ""))


def keys(runtime: Runtime) -> None:
    """Make and revoke keys."""
    st.markdown("##### Keys")
    st.caption(
        "Every call and every visit needs a key."
        if runtime.settings.require_keys
        else "This server listens on this machine only, so keys are not asked for. A key still keeps its owner's "
        "chats and prompt cache apart from others'."
    )
    rows = runtime.access.keys.latest()
    owners = {None: "Somebody new", "": "This installation"} | {row.tenant: row.name for row in rows if row.tenant}
    made = st.container()  # above the form, where it is seen
    with (
        st.form("new-key", clear_on_submit=True),
        st.container(horizontal=True, vertical_alignment="bottom"),
    ):
        name = st.text_input("Name of a new key", placeholder="billing service")
        role = st.selectbox("It may", list(Role), index=list(Role).index(Role.USER), format_func=MAY.__getitem__)
        owner = st.selectbox(
            "Belongs to", list(owners), format_func=owners.__getitem__, help="Keys of one owner see the same chats."
        )
        if st.form_submit_button("Create a key"):
            if name.strip():
                st.session_state[MADE] = runtime.access.keys.create(name, Role(role or Role.USER), owner)
                st.rerun()  # the snippets above take it
            made.error("Give the key a name: it is what you will know it by when you revoke it.")
    if key := made_key():
        made.success("Copy this key now; it is stored only as a hash and cannot be shown again.")
        made.code(key, language=None)
    with st.expander(f"Limits of all together: {in_words(runtime, '') or 'none'}", key="limits-all"):
        installation_limits(runtime)
    for row in rows:
        with st.container(border=True, key=f"key-{row.id}", gap="xxsmall"):
            text, button = st.columns([5, 1], vertical_alignment="center")
            used = f"last used {when(row.used)}" if row.used else "never used"
            may = MAY[Role(row.role)]
            with text.container(gap="xxsmall"):
                st.markdown(f"**{plain(row.name)}** &ensp;`{row.prefix}…`")
                st.caption(f"May {may} · made {when(row.created)} · {used}")
                with st.expander(f"Limits: {in_words(runtime, row.id) or 'none'}", key=f"limits-{row.id}-shown"):
                    key_limits(runtime, row.id)
            press_after_asking(
                "Revoke", f"What uses “{row.name}” stops working: its calls, sign-ins and open pages end at once.",
                partial(_revoke, runtime, row.id, row.prefix), key=f"revoke-{row.id}", place=button, yes="Revoke",
                width="stretch",
            )  # fmt: skip


def _revoke(runtime: Runtime, key_id: str, prefix: str) -> None:
    runtime.access.keys.revoke(key_id)
    if made_key().startswith(prefix):
        del st.session_state[MADE]
