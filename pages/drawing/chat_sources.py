"""Where an answer's sentences come from: marks [1] in the text, the list under it, and the panel with the passage."""

from __future__ import annotations

from typing import Any

import streamlit as st

from backend.errors import TenfoldError
from backend.runtime import Runtime
from pages.caller import current_sight
from pages.drawing.untrusted import passage, plain, prose

_OPEN, _CLOSE = "\ue100", "\ue101"
"""Private characters that no formatting takes for its own; a text's own ones are shown as unknown."""
_UNKNOWN = str.maketrans({_OPEN: "\ufffd", _CLOSE: "\ufffd"})
PANEL = "chat-source"


def marked_prose(text: str, marks: list[dict[str, Any]], message_id: str) -> str:
    """An answer as Markdown, with a link to its source behind each sentence that has one."""
    out, at = [], 0
    text = text.translate(_UNKNOWN)
    for number, mark in enumerate(marks):
        out += [text[at : mark["start"]].rstrip(" ") if mark["end"] > mark["start"] else text[at : mark["start"]]]
        out += [f"{_OPEN}{number}{_CLOSE}"]
        at = mark["end"]
    shown = prose("".join([*out, text[at:]]))
    for number, mark in enumerate(marks):
        link = f"[\\[{mark['number']}\\]](#source-{message_id}.{number})"
        shown = shown.replace(f"{_OPEN}{number}{_CLOSE}", f" {link}")
    return shown


def draw_sources(message_id: str, details: dict[str, Any]) -> None:
    """The passages that an answer was given, by number; each opens its panel."""
    citations = details.get("citations", [])
    if not citations:
        return
    marks = details.get("marks", [])
    with st.container(horizontal=True, gap="xsmall", key=f"sources-{message_id}"):
        for citation in citations:
            number = citation["number"]
            first = next((i for i, mark in enumerate(marks) if mark["number"] == number), None)
            target = f"{message_id}.{first}" if first is not None else f"{message_id}.n{number}"
            st.button(
                plain(f"[{number}] {citation['document']}"), key=f"source-{message_id}-{number}", type="secondary",
                on_click=open_source, args=(target,), help="Show the passage",
            )  # fmt: skip


def open_source(target: str) -> None:
    """Have the panel opened: `message.mark` for a mark, `message.nNUMBER` for a passage."""
    st.session_state[PANEL] = target


def source_panel(runtime: Runtime, conversation: str | None) -> None:
    """Draw the panel, if a source is open that belongs to this conversation."""
    target = st.session_state.get(PANEL)
    if target is None:
        return
    message_id, _, which = str(target).rpartition(".")
    message = runtime.conversations.message(message_id)
    citations = message.details.get("citations", []) if message else []
    if message is None or message.conversation_id != conversation or not citations:
        close_panel()
        return
    marks = message.details.get("marks", [])
    mark = marks[int(which)] if which.isdigit() and int(which) < len(marks) else None
    number = mark["number"] if mark else int(which.removeprefix("n")) if which[1:].isdigit() else 0
    known = [citation["number"] for citation in citations]
    if number not in known:
        close_panel()
        return

    @st.dialog("Sources", width="medium", position="right", on_dismiss=close_panel)
    def panel() -> None:
        chosen = number
        if len(citations) > 1:
            chosen = st.segmented_control(
                "Source", known, default=number, format_func=lambda n: plain(f"[{n}]"), key=f"panel-{target}",
                label_visibility="collapsed", required=True,
            )  # fmt: skip
        citation = next(citation for citation in citations if citation["number"] == chosen)
        spans = [(m["begin"], m["stop"]) for m in ([mark] if mark and chosen == number else marks)
                 if m["number"] == chosen]  # fmt: skip
        draw_passage(runtime, citation, spans)

    panel()


def close_panel() -> None:
    """Close the panel."""
    st.session_state.pop(PANEL, None)


def draw_passage(runtime: Runtime, citation: dict[str, Any], spans: list[tuple[int, int]]) -> None:
    """A passage with what supports the answer marked, and where in its document it stands."""
    st.markdown(f"**{plain(citation['document'])}**")
    place = place_in(runtime, citation)
    st.caption(f"{place} · similarity {citation['score']:.2f}")
    st.markdown(passage(citation["text"], spans))
    if not spans:
        st.caption("No sentence of the answer was traced to this passage; it was among those that the model was given.")


def place_in(runtime: Runtime, citation: dict[str, Any]) -> str:
    """Where in its document a passage stands."""
    part = f"Part {citation['position'] + 1}"
    try:
        document = runtime.documents.get(citation["document_id"], current_sight())
    except TenfoldError:  # deleted since
        return part
    return f"{part} of {document.chunk_count}" if document.chunk_count > citation["position"] else part
