"""A ledger over a real database, beside a stand-in engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.models.text import TextModel
from tests.generation.conftest import Room


@pytest.fixture
def room(tmp_path: Path, chat_folder: Path) -> Iterator[Room]:
    room = Room(tmp_path, TextModel(chat_folder), busy_ms=30_000)
    yield room
    room.close()
