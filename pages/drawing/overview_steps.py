"""Overview, before there are figures: three steps that tick themselves off."""

from __future__ import annotations

from functools import partial

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from backend.access.caller import Role
from backend.runtime import Runtime
from pages.caller import current_caller, current_sight
from pages.drawing.acts import after_press, press
from pages.drawing.chat_welcome import SUGGESTIONS, pick
from pages.navigation import page

ASKED = "overview-asked"


def done_steps(runtime: Runtime) -> tuple[bool, bool]:
    """Whether somebody was answered here, and whether a program called."""
    queries = runtime.ledger.queries
    return queries.sums(None, None, ("people",)).requests > 0, queries.sums(None, None, ("api",)).requests > 0


def steps(runtime: Runtime, *, left_only: bool = False) -> None:
    """Draw the steps; with `left_only` the last, which is left when somebody has asked."""
    if left_only:
        with st.container(border=True, horizontal=True, vertical_alignment="center", key="step-left"):
            st.markdown("**One step is left**: call the API from a program.")
            st.page_link(page("connect"), label="See how on Connect")
        return
    st.markdown("## Three steps to your first figures")
    st.write("Tenfold serves this model with batching, caches and smaller weights, and shows what each is worth.")
    may = current_caller().role.covers(Role.USER)

    if st.session_state.pop(ASKED, False):  # not from within a fragment: its page would come up empty
        st.switch_page(page("chat"))

    @st.fragment(run_every=1.0)
    def live() -> None:
        after_press()
        sight = current_sight()
        reading, ready = runtime.documents.pending(sight), runtime.documents.any_searchable(sight)
        if any(done_steps(runtime)):
            st.rerun()
        with _step(1, "Load documents", done=ready and not reading):
            if reading:
                st.write(f"Reading {reading} document{'s' if reading > 1 else ''} …")
            elif ready:
                st.write("They are read.")
            else:
                st.write("Three short sample documents, to try it with. Your own go on Knowledge.")
            if may and not ready and not reading:
                press("Load the sample documents", runtime.samples.load, key="load-samples", type="primary")
        with _step(2, "Ask a question", done=False):
            st.write("The answer quotes the documents.")
            samples = {d.name for d in runtime.documents.latest(sight)} & set(runtime.samples.names)
            if may and not reading and (samples or not ready):
                press(SUGGESTIONS[0], partial(ask, runtime, load=not samples), key="first-question")
            elif may and ready:
                st.page_link(page("chat"), label="Ask about your documents on Chat")
        with _step(3, "Call the API from a program", done=False):
            st.write("Any OpenAI client works: change its address.")
            st.page_link(page("connect"), label="See how on Connect")

    live()


def ask(runtime: Runtime, *, load: bool) -> None:
    """Have Chat ask the first question; the page goes there when it is drawn anew."""
    pick(runtime, SUGGESTIONS[0], load=load)
    st.session_state[ASKED] = True


def _step(number: int, title: str, *, done: bool) -> DeltaGenerator:
    box = st.container(border=True, key=f"step-{number}")
    box.markdown(f"**{number}. {title}**" + (" :green-badge[done]" if done else ""))
    return box

