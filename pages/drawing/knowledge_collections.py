"""The collections: how many documents each has, who sees it, and what can be done with it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import streamlit as st

from backend.runtime import Runtime
from pages.caller import current_sight
from pages.drawing.acts import act, press, press_after_asking
from pages.drawing.figures import counted
from pages.drawing.knowledge_access import has_others, may_change
from pages.drawing.untrusted import plain

if TYPE_CHECKING:
    from backend.knowledge.collections import Listed

STYLE = """<style>
.st-key-collections [class*=st-key-collection-] { padding: 6px 0;
  border-bottom: 1px solid color-mix(in srgb, currentColor 14%, transparent); }
</style>"""


def collections_view(runtime: Runtime) -> None:
    """Draw it."""
    st.caption("A collection is a named set of documents to search and to chat with. A document may be in several.")
    if may_change():
        _new(runtime)
    listed = runtime.collections.listed(current_sight())
    if not listed:
        st.info("No collections yet. The first document that is uploaded makes the default one.")
    st.html(STYLE)
    with st.container(key="collections", gap=None):
        for collection in listed:
            _row(runtime, collection)


def _new(runtime: Runtime) -> None:
    form = st.form("new-collection", border=False, clear_on_submit=True)
    with form.container(horizontal=True, vertical_alignment="center"):
        name = st.text_input(
            "Name of a new collection", placeholder="Name of a new collection", label_visibility="collapsed",
            key="collection-name", width=280,
        )  # fmt: skip
        private = has_others() and st.toggle(
            "Private", key="collection-private", help="Only your keys and administrators see it."
        )
        made = st.form_submit_button("Create")
    if made:
        act(lambda: runtime.collections.define(name, current_sight(), private=private))


def _row(runtime: Runtime, collection: Listed) -> None:
    name, default = collection.name, collection.name == runtime.collections.default
    with st.container(horizontal=True, vertical_alignment="center", key=f"collection-{name}"):
        marks = [":gray-badge[unless you choose another]"] if default else []
        if has_others():
            marks.append(":violet-badge[private]" if collection.private else ":gray-badge[shared]")
        st.markdown(f"**{plain(name)}** · {counted(collection.documents, 'document')} {' '.join(marks)}")
        st.space("stretch")
        st.button("Show documents", key=f"show-{name}", type="tertiary", on_click=_show, args=(name,))
        if not may_change():
            return
        sight = current_sight()
        if collection.private:
            press(
                "Share with everybody", partial(runtime.collections.define, name, sight, private=False),
                key=f"share-{name}", type="tertiary",
            )  # fmt: skip
        elif has_others() and not default and (sight.everything or not collection.documents):
            press(
                "Make private", partial(runtime.collections.define, name, sight, private=True),
                key=f"hide-{name}", type="tertiary",
            )  # fmt: skip
        lost = f", and {counted(collection.documents, 'document')}" if collection.documents else ""
        press_after_asking(
            "Delete",
            f"Delete the collection {name}{lost}? Documents that are in other collections too stay there. "
            "This cannot be undone.",
            partial(_delete, runtime, name), key=f"drop-{name}",
        )  # fmt: skip


def _show(name: str) -> None:
    st.session_state["view"], st.session_state["collection"] = "Documents", name


def _delete(runtime: Runtime, name: str) -> None:
    sight = current_sight()
    runtime.documents.delete_all(runtime.collections.release(name, sight), sight)
    runtime.collections.delete(name, sight)
