"""One document in the table: its name opens it, one line says what became of it, and what to do where it failed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from html import escape
from typing import TYPE_CHECKING

import streamlit as st

from backend.runtime import Runtime
from pages.caller import current_sight
from pages.drawing.acts import ACTED, press
from pages.drawing.document import OPENED
from pages.drawing.figures import counted, seconds, size, when
from pages.drawing.knowledge_access import may_change
from pages.drawing.untrusted import plain, spoken

if TYPE_CHECKING:
    from backend.store.tables.documents import Document

STATES = {
    "queued": ("waiting", "Waiting"),
    "parsing": ("reading", "Reading"),
    "embedding": ("reading", "Embedding"),
    "ready": ("ready", "Ready"),
    "failed": ("failed", "Failed"),
}
"""By state: its look, and its word."""
LONGEST_NAME = 60
LINE = "color-mix(in srgb, currentColor 14%, transparent)"
STYLE = f"""<style>
.st-key-documents {{ border-top: 1px solid {LINE}; }}
.st-key-documents [class*=st-key-row-] {{ border-bottom: 1px solid {LINE}; min-height: 44px; padding: 2px 0;
  justify-content: center; }}
.st-key-documents [class*=st-key-said-] {{ padding: 0 0 6px 31px; }}
.st-key-documents [class*=st-key-said-] p {{ font-size: 14px; }}
.st-key-documents [class*=st-key-name-] button {{ max-width: 100%; text-align: left; min-height: 0; }}
.st-key-state button[aria-checked=true] p {{ color: light-dark(#16202b, #e6edf3); }}
.facts {{ display: grid; grid-template-columns: 160px 76px 76px 128px; column-gap: 12px; align-items: center;
  font-size: 14px; font-variant-numeric: tabular-nums; }}
.facts.with-collections {{ grid-template-columns: 160px 76px 76px 128px 150px; }}
.facts > span {{ overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }}
.facts .number {{ text-align: right; }}
.facts .state {{ display: inline-flex; align-items: center; gap: 7px; }}
.facts .dot {{ width: 9px; height: 9px; border-radius: 50%; flex: none; background: #94a3b8; }}
.facts .ready .dot {{ background: #16a34a; }} .facts .failed .dot {{ background: #dc2626; }}
.facts .reading .dot {{ background: #2563eb; }}
.facts .bar {{ flex: 1 1 auto; height: 6px; border-radius: 3px; background: {LINE}; overflow: hidden; }}
.facts .bar > span {{ display: block; height: 100%; background: #2563eb; }}
@media (max-width: 1100px) {{ .facts .in {{ display: none; }}
  .facts, .facts.with-collections {{ grid-template-columns: 150px 70px 70px 124px; }} }}
@media (max-width: 640px) {{
  .facts, .facts.with-collections {{ grid-template-columns: 1fr auto auto; font-size: 13px; }}
  .facts .at, [data-testid=stLayoutWrapper]:has(> [class*=st-key-idle-]) {{ display: none; }}
}}
</style>"""


def row(
    runtime: Runtime, document: Document, collections: list[str] | None, known: bool | None, chosen: bool,
    choose: Callable[[str], None],
) -> None:  # fmt: skip
    """Draw it.

    Args:
        runtime: the product.
        document: what the row is of.
        collections: what those are called that it is in, but the default one; None where there is no other.
        known: None, unless it was uploaded just now: whether there was nothing to do.
        chosen: whether it is among those that are changed together.
        choose: called with its id where it is chosen, or is not any more.
    """
    with st.container(key=f"row-{document.id}", gap=None):
        with st.container(horizontal=True, vertical_alignment="center"):
            if may_change():
                st.session_state[f"choose-{document.id}"] = chosen
                st.checkbox(
                    f"Choose {spoken(document.name)}", key=f"choose-{document.id}", label_visibility="collapsed",
                    on_change=choose, args=(document.id,),
                )  # fmt: skip
            with st.container(key=f"name-{document.id}", width="stretch"):
                st.button(
                    plain(_short(document.name)), key=f"open-{document.id}", type="tertiary", on_click=_open,
                    args=(document.id,), help=plain(document.name) if len(document.name) > LONGEST_NAME else None,
                )  # fmt: skip
            st.html(_facts(document, collections), width="content")
            if may_change():
                idle = document.state == "ready"
                with st.container(width=64, key=f"{'idle' if idle else 'act'}-{document.id}"):
                    _button(runtime, document)
        if said := _said(runtime, document, known):
            with st.container(key=f"said-{document.id}"):
                color = ":red" if document.state == "failed" else ":gray"
                st.markdown(f"{color}[{plain(said)}]")


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 12]}…{name[-10:]}"


def _open(document_id: str) -> None:
    st.query_params[OPENED] = document_id
    st.session_state[ACTED] = True  # the panel is the page's, so that one is drawn anew too


def _facts(document: Document, collections: list[str] | None) -> str:
    look, word = STATES[document.state]
    state = f'<span class="dot"></span>{word}'
    if look == "reading":
        percent = round(100 * document.progress)
        state += (
            f'<span class="bar" role="progressbar" aria-label="Read of {escape(document.name)}" aria-valuemin="0" '
            f'aria-valuemax="100" aria-valuenow="{percent}"><span style="width:{percent}%"></span></span>'
        )
    parts = counted(document.chunk_count, "part") if document.build or document.chunk_count else ""
    inside, grid = "", "facts"
    if collections is not None:
        named = escape(", ".join(collections))
        inside, grid = f'<span class="in" title="{named}">{named}</span>', "facts with-collections"
    return (
        f'<div class="{grid}"><span class="state {look}">{state}</span>'
        f'<span class="number">{parts}</span><span class="number">{size(document.size)}</span>'
        f'<span class="at">{when(document.created)}</span>{inside}</div>'
    )


def _button(runtime: Runtime, document: Document) -> None:
    """Of what is being read, and of what failed."""
    at = (document.id, current_sight())
    if runtime.documents.is_pending(document):
        press("Cancel", partial(runtime.documents.cancel, *at), key=f"cancel-{document.id}", type="tertiary")
    elif document.state == "failed":
        press("Retry", partial(runtime.documents.retry, *at), key=f"retry-{document.id}", type="tertiary")
    else:
        st.space("small")  # what is not there takes no width


def _said(runtime: Runtime, document: Document, known: bool | None) -> str:
    """What there is to say about it beside its row."""
    answers = f" Version {document.version} answers meanwhile." if document.build else ""
    if document.state == "failed":
        return document.reason + answers
    if runtime.documents.is_pending(document):
        rate = runtime.reader.rate(document.id)
        if rate is None or not rate.per_second:
            return ("Waits for its turn." if document.state == "queued" else "Its text is being read.") + answers
        left = seconds(rate.left)
        return f"{rate.done:,} of {rate.total:,} parts · {rate.per_second:.0f} a second · {left} left.{answers}"
    if known is None:
        return ""
    if known:
        return "Nothing to do: this very file was read before."
    if document.reused and not document.embedded:
        return f"Nothing to compute: all {counted(document.reused, 'part')} were known already."
    before = f", {document.reused:,} of them known already" if document.reused else ""
    return f"Read in {seconds(document.seconds)}: {counted(document.chunk_count, 'part')}{before}."
