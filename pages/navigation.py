"""The console's pages, in one place: the menu is made of them, and links and jumps name them."""

from __future__ import annotations

from pathlib import Path

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from backend.access.caller import Caller, Role

HERE = Path(__file__).parent
PAGES = {
    "chat": ("Chat", "forum", Role.USER),
    "documents": ("Documents", "description", Role.USER),
    "retrieval": ("Retrieval", "hub", Role.READ_ONLY),
    "jobs": ("Jobs", "schedule", Role.USER),
    "dashboard": ("Dashboard", "monitoring", Role.READ_ONLY),
    "optimizations": ("Optimizations", "tune", Role.ADMIN),
    "connect": ("API", "api", Role.READ_ONLY),
}
"""By name: title, icon, and the least role that is shown the page. A page that is not shown cannot be run."""
GROUPS = {
    "Use": ("chat", "documents", "retrieval", "jobs"),
    "Understand": ("dashboard", "optimizations"),
    "Connect": ("connect",),
}


def page(name: str) -> StreamlitPage:
    """A page by its name, for `st.page_link` and `st.switch_page`, which find pages by their address."""
    return _page(name, front=name == "chat")


def menu(caller: Caller) -> dict[str, list[StreamlitPage]]:
    """The pages that a caller may open, by group; the first of them is the front page, which its name leads to too."""
    may = [name for names in GROUPS.values() for name in names if caller.role.covers(PAGES[name][2])]
    groups = {group: [name for name in names if name in may] for group, names in GROUPS.items()}
    out = {group: [_page(name, front=name == may[0]) for name in names] for group, names in groups.items() if names}
    next(iter(out.values())).append(_page(may[0], hidden=True))
    return out


def _page(name: str, *, front: bool = False, hidden: bool = False) -> StreamlitPage:
    title, icon, _ = PAGES[name]
    return st.Page(
        HERE / f"{name}.py", title=title, icon=f":material/{icon}:", url_path=name, default=front,
        visibility="hidden" if hidden else "visible",
    )  # fmt: skip
