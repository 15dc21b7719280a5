"""The console's pages, in one place: the menu is made of them, and links and jumps name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from backend.access.caller import Caller, Role

HERE = Path(__file__).parent
HOME = "overview"
PAGES = {
    "overview": ("Overview", "home", Role.READ_ONLY),
    "chat": ("Chat", "forum", Role.USER),
    "knowledge": ("Knowledge", "library_books", Role.READ_ONLY),
    "jobs": ("Jobs", "schedule", Role.USER),
    "monitor": ("Monitor", "monitoring", Role.READ_ONLY),
    "optimize": ("Optimize", "tune", Role.ADMIN),
    "connect": ("Connect", "api", Role.READ_ONLY),
    "settings": ("Settings", "settings", Role.ADMIN),
}
"""By name: title, icon, and the least role that is shown the page. A page that is not shown cannot be run."""
GROUPS = {
    "": ("overview", "chat", "knowledge", "jobs"),
    "Understand": ("monitor", "optimize"),
    "Set up": ("connect", "settings"),
}


def page(name: str, *, front: bool | None = None) -> StreamlitPage:
    """A page by its name, for the menu, `st.page_link` and `st.switch_page`, which find pages by their address."""
    default = name == HOME if front is None else front
    return _page(name, "front" if default else name, default=default)


def menu(caller: Caller) -> dict[str, list[StreamlitPage]]:
    """The pages that a caller may open, by group; the first of them is the front page, which its name leads to too."""
    out: dict[str, list[StreamlitPage]] = {}
    for group, names in GROUPS.items():
        for name in names:
            if caller.role.covers(PAGES[name][2]):
                if not out:
                    out[group] = [_page(name, name, visibility="hidden"), page(name, front=True)]
                else:
                    out.setdefault(group, []).append(page(name, front=False))
    return out


def _page(name: str, address: str, **more: Any) -> StreamlitPage:
    title, icon, _ = PAGES[name]
    return st.Page(HERE / f"{name}.py", title=title, icon=f":material/{icon}:", url_path=address, **more)
