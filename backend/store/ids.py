"""Names of rows."""

from __future__ import annotations

import time
import uuid


def new_id() -> str:
    """An opaque id."""
    return uuid.uuid4().hex


def ordered_id() -> str:
    """An opaque id that sorts behind those made before it, so that a page of a list can begin behind a deleted row."""
    return f"{time.time_ns():016x}{uuid.uuid4().hex[:16]}"
