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
"""By name, in their order: title, icon, and the least role that is shown the page; else it cannot be run either."""


def page(name: str, *, front: bool | None = None) -> StreamlitPage:
    """A page by its name, for the menu, `st.page_link` and `st.switch_page`, which find pages by their address."""
    default = name == HOME if front is None else front
    return _page(name, "front" if default else name, default=default)


def menu(caller: Caller) -> list[StreamlitPage]:
    """The pages that a caller may open; the first of them is the front page, which its name leads to too."""
    names = [name for name, (_, _, least) in PAGES.items() if caller.role.covers(least)]
    first, *others = names
    hidden = _page(first, first, visibility="hidden")
    return [hidden, page(first, front=True), *(page(name, front=False) for name in others)]


def _page(name: str, address: str, **more: Any) -> StreamlitPage:
    title, icon, _ = PAGES[name]
    return st.Page(HERE / f"{name}.py", title=title, icon=f":material/{icon}:", url_path=address, **more)
