"""The console's frame: which pages a caller has, and what state the engine is in."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from backend.access.caller import LOCAL, Caller, Role
from backend.access.sign_in import SIGN_OUT
from backend.errors import UnavailableError
from backend.runtime import Runtime, current
from pages.caller import current_caller

HERE = Path(__file__).parent
ASSETS = HERE.parent / "data" / "assets"
PAGES = {
    "Use": [
        ("chat", "Chat", "forum", Role.USER),
        ("documents", "Documents", "description", Role.USER),
        ("retrieval", "Retrieval", "hub", Role.READ_ONLY),
        ("jobs", "Jobs", "schedule", Role.USER),
    ],
    "Understand": [
        ("dashboard", "Dashboard", "monitoring", Role.READ_ONLY),
        ("optimizations", "Optimizations", "tune", Role.ADMIN),
    ],
    "Connect": [("connect", "API", "api", Role.READ_ONLY)],
}
"""By group: file, title, icon, and the least role that is shown the page. A page that is not shown cannot be run."""


def pages_for(caller: Caller) -> dict[str, list[StreamlitPage]]:
    """The pages that a caller may open, the first of them the front page."""
    out: dict[str, list[StreamlitPage]] = {}
    for group, pages in PAGES.items():
        for name, title, icon, least in pages:
            if caller.role.covers(least):
                page = st.Page(
                    HERE / f"{name}.py", title=title, icon=f":material/{icon}:", url_path=name, default=not out
                )
                out.setdefault(group, []).append(page)
    return out


def engine_banner(runtime: Runtime, caller: Caller) -> None:
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
            st.warning(state.detail, icon="🔁")
        elif state.phase in ("failed", "stopped"):
            st.error(f"The engine is not running. {state.detail}", icon="🛑")
            if caller.role.covers(Role.USER) and st.button("Start it again", key="restart-engine"):
                runtime.restart_engine()
                st.rerun()
        elif runtime.notice:
            st.info(runtime.notice, icon="⏳")
        for notice in runtime.engine.info.get("notices", []):
            st.caption(f":orange[{notice}]")

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
    page = st.navigation(pages_for(caller))
    layout: Literal["centered", "wide"] = "centered" if page.title == "Chat" else "wide"
    st.set_page_config(page_title=f"{page.title} · Tenfold", layout=layout)
    if caller != LOCAL:
        st.sidebar.link_button("Sign out", SIGN_OUT, icon=":material/logout:", type="tertiary")
    engine_banner(runtime, caller)
    page.run()


main()
