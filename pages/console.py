"""The console's frame: who may enter, which pages there are, and what state the engine is in."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import streamlit as st

from backend.api.gate import is_loopback
from backend.errors import UnavailableError
from backend.runtime import Runtime, current
from pages.drawing.untrusted import plain
from pages.navigation import menu

ASSETS = Path(__file__).parents[1] / "data" / "assets"


def signed_in(runtime: Runtime) -> bool:
    """On loopback everybody is; on a network, who has given a valid key in this session."""
    return is_loopback(st.get_option("server.address")) or st.session_state.get("key_id") in {
        key.id for key in runtime.keys.find()
    }


def sign_in(runtime: Runtime) -> None:
    """Ask for a key."""
    st.title("Sign in")
    st.write("This server is open to the network, so it asks who you are.")
    with st.form("sign-in"):
        key = st.text_input("API key", type="password", placeholder="tf-…")
        if st.form_submit_button("Sign in", type="primary"):
            row = runtime.keys.check(key.strip())
            if row is None:
                st.error("This key is not valid. The first key was printed where the server was started.")
            else:
                st.session_state["key_id"] = row.id
                st.rerun()


def engine_banner(runtime: Runtime) -> None:
    """Say what the engine is doing, unless it simply serves."""
    phase = runtime.engine.state.phase

    @st.fragment(run_every=1.0 if phase != "ready" or runtime.notice else None)
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
            if st.button("Start it again", key="restart-engine"):
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
    st.logo(str(ASSETS / "logo.svg"), size="large")
    try:
        runtime = current()
    except UnavailableError as error:
        st.info(error.message)
        st.stop()
    if not signed_in(runtime):
        sign_in(runtime)
        st.stop()
    page = st.navigation(menu())
    layout: Literal["centered", "wide"] = "centered" if page.title == "Chat" else "wide"
    st.set_page_config(page_title=f"{page.title} · Tenfold", page_icon=str(ASSETS / "icon.svg"), layout=layout)
    engine_banner(runtime)
    page.run()


main()
