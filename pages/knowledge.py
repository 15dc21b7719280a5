"""What is known: the documents, a search among them, and the collections they are in. Only the open view is drawn."""

from __future__ import annotations

import streamlit as st

from backend.runtime import current
from pages.drawing.acts import refusal
from pages.drawing.document import opened
from pages.drawing.knowledge_collections import collections_view
from pages.drawing.knowledge_documents import documents_view
from pages.drawing.knowledge_search import search_view

VIEWS = {"Documents": documents_view, "Search": search_view, "Collections": collections_view}


def main() -> None:
    """Draw the page."""
    runtime = current()
    refusal()
    for view, draw in zip(st.tabs(list(VIEWS), key="view", bind="query-params"), VIEWS.values(), strict=True):
        if view.open:
            with view:
                draw(runtime)
    opened(runtime)


main()
