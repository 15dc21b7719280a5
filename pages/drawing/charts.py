"""One palette for every figure; nothing here knows what a figure shows."""

from __future__ import annotations

TEAL, AMBER, BLUE, GRAY = "#14b8a6", "#f59e0b", "#6366f1", "#94a3b8"
