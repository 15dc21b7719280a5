"""A database and files of its own for each test, with batches that a stand-in answers at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.batches import runner, service
from backend.store.database import Database
from tests.batches.standin import Bench
from tests.jobs.standin import StandIn


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to wait for a pause to be over."""
    monkeypatch.setattr(runner, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(runner, "LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(runner, "LOOK", 0.02)
    monkeypatch.setattr(service, "BEAT", 0.1)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite3'}")
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def answers() -> StandIn:
    return StandIn()


@pytest.fixture
def bench(tmp_path: Path, database: Database, answers: StandIn) -> Iterator[Bench]:
    bench = Bench(tmp_path, database, answers)
    bench.start()
    yield bench
    bench.batches.close()
