"""Collections as lists show them: a lock marks those that are one owner's alone."""

from __future__ import annotations

from backend.runtime import Runtime
from pages.caller import current_sight


def collection_labels(runtime: Runtime, *, counted: bool = False) -> dict[str, str]:
    """The collections that the caller sees, and what to call each, by name."""
    return {
        listed.name: ("🔒 " if listed.private else "") + listed.name + (f" ({listed.documents})" if counted else "")
        for listed in runtime.collections.listed(current_sight())
    }
