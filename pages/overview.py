"""The home: what is paid here and what it would be without Tenfold, or the three steps that lead there."""

from __future__ import annotations

import streamlit as st

from backend.runtime import current
from pages.navigation import page


def main() -> None:
    """Draw the page."""
    runtime = current()
    if not runtime.ledger.totals().requests:
        st.markdown("## Three steps to the first figures")
        st.page_link(page("chat"), label="Go to Chat")


main()
