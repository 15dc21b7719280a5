"""The console's pages, in one place: the menu is made of them, and links and jumps name them."""

from __future__ import annotations

from pathlib import Path

import streamlit as st
from streamlit.navigation.page import StreamlitPage

HERE = Path(__file__).parent
PAGES = {
    "chat": ("Chat", "forum"),
    "documents": ("Documents", "description"),
    "retrieval": ("Retrieval", "hub"),
    "jobs": ("Jobs", "schedule"),
    "dashboard": ("Dashboard", "monitoring"),
    "optimizations": ("Optimizations", "tune"),
    "connect": ("API", "api"),
}
GROUPS = {
    "Use": ("chat", "documents", "retrieval", "jobs"),
    "Understand": ("dashboard", "optimizations"),
    "Connect": ("connect",),
}


def page(name: str) -> StreamlitPage:
    """A page by its name, for the menu, `st.page_link` and `st.switch_page`, which find pages by their address."""
    title, icon = PAGES[name]
    return st.Page(
        HERE / f"{name}.py", title=title, icon=f":material/{icon}:", url_path=name, default=name == "chat"
    )


def menu() -> dict[str, list[StreamlitPage]]:
    """Every page, by its group."""
    return {group: [page(name) for name in names] for group, names in GROUPS.items()}
