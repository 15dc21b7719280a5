"""A file holds one idea, and can be read at one sitting."""

from __future__ import annotations

from tests.conftest import ROOT

MOST = {"backend/runtime.py": 150, "backend/knowledge/embeddings.py": 323, "backend/knowledge/graph.py": 306}
"""Lines of those that may have other than 300: fewer of what wires the rooms, more of two that are yet to be split."""


def test_no_file_is_longer_than_can_be_read_at_one_sitting() -> None:
    lengths = {
        path.relative_to(ROOT).as_posix(): path.read_text().count("\n")
        for folder in ("backend", "pages") for path in (ROOT / folder).rglob("*.py")
    }  # fmt: skip
    assert {name: lines for name, lines in lengths.items() if lines > MOST.get(name, 300)} == {}
