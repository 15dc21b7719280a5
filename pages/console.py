"""The console's frame: which pages a caller has, and what state the engine is in."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import streamlit as st

from backend.access.caller import LOCAL, Caller, Role
from backend.access.sign_in import SIGN_OUT
from backend.errors import UnavailableError
from backend.runtime import Runtime, current
from pages.caller import current_caller
from pages.drawing.frame import bar
from pages.drawing.untrusted import plain
from pages.navigation import menu

ASSETS = Path(__file__).parents[1] / "data" / "assets"
BUSY, CALM = 1.0, 3.0
"""Seconds between two looks at the engine; a page that nobody touches says it too if the engine dies."""


def engine_banner(runtime: Runtime, caller: Caller) -> None:
    """Say what the engine is doing, unless it simply serves."""
    phase = runtime.engine.state.phase

    @st.fragment(run_every=BUSY if phase != "ready" or runtime.notice else CALM)
    def banner() -> None:
        state = runtime.engine.state
        if state.phase != phase:
            st.rerun()
        if state.phase == "starting":
            st.info("The model is being loaded. This takes some seconds; the first time up to a minute.", icon="⏳")
        elif state.phase == "restarting":
            st.warning(plain(state.detail), icon="🔁")
        elif state.phase in ("failed", "stopped"):
            st.error(f"The engine is not running. {plain(state.detail)}", icon="🛑")
            if caller.role.covers(Role.USER) and st.button("Start it again", key="restart-engine"):
                runtime.restart_engine()
                st.rerun()
        elif runtime.notice:
            st.info(plain(runtime.notice), icon="⏳")
        info = runtime.engine.info
        for notice in info.notices if info else ():
            st.caption(f":orange[{plain(notice)}]")

    banner()


def main() -> None:
    """Draw the frame and the page."""
    # First of all: navigation would otherwise show the page's own icon in the tab, which is fetched from a font host.
    st.set_page_config(page_icon=str(ASSETS / "icon.svg"))
    st.logo(str(ASSETS / "logo.svg"), size="large")
    try:
        runtime = current()
    except UnavailableError as error:
        st.info(error.message)
        st.stop()
    caller = current_caller()
    page = st.navigation(menu(caller))
    layout: Literal["centered", "wide"] = "centered" if page.title == "Chat" else "wide"
    st.set_page_config(page_title=f"{page.title} · Tenfold", layout=layout)
    if caller != LOCAL:
        st.sidebar.link_button("Sign out", SIGN_OUT, icon=":material/logout:", type="tertiary")
    bar(runtime, page.title)
    engine_banner(runtime, caller)
    page.run()


main()
