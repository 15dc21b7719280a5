"""Names of rows."""

from __future__ import annotations

import uuid


def new_id() -> str:
    """An opaque id."""
    return uuid.uuid4().hex
