"""The documents: a line to drop files on, the table, and what is kept of them; or what to do while there are none."""

from __future__ import annotations

from backend.runtime import Runtime
from pages.caller import current_sight
from pages.drawing.knowledge_access import may_change
from pages.drawing.knowledge_empty import nothing_yet
from pages.drawing.knowledge_storage import storage
from pages.drawing.knowledge_table import table
from pages.drawing.knowledge_upload import uploader


def documents_view(runtime: Runtime) -> None:
    """Draw it."""
    may = may_change()
    if may:
        uploader(runtime)
    if not runtime.documents.count(current_sight()):
        nothing_yet(runtime, "No documents yet", "Drop files above" if may else "Nobody has uploaded any.")
        return
    table(runtime)
    storage(runtime)
