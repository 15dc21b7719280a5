"""What is written in the background comes in order, is tried again while the database is away, and fails alone."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlmodel import Session

from backend.store.database import Database
from backend.store.writer import passing


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite3'}")
    event.listen(database.engine, "connect", lambda c, _: c.execute("PRAGMA busy_timeout=10"))
    with database.session() as session:
        session.connection().execute(text("CREATE TABLE line (at INTEGER PRIMARY KEY, number INTEGER UNIQUE)"))
    yield database
    database.close()


def put(number: int) -> Any:
    def write(session: Session) -> None:
        session.connection().execute(text(f"INSERT INTO line (number) VALUES ({number})"))

    return write


def lines(database: Database) -> list[int]:
    with sqlite3.connect(database.engine.url.database or "") as connection:
        return [row[0] for row in connection.execute("SELECT number FROM line ORDER BY at")]


def test_many_writes_come_in_order_and_share_commits(database: Database) -> None:
    commits: list[int] = []
    event.listen(database.engine, "commit", lambda _: commits.append(1))
    for number in range(1000):
        database.writer.submit(put(number))
    assert database.writer.flush() and lines(database) == list(range(1000))
    assert len(commits) < 500


def test_writes_wait_for_a_database_that_is_away(database: Database) -> None:
    other = sqlite3.connect(database.engine.url.database or "", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    told: list[tuple[int, Exception | None]] = []
    both = threading.Event()

    def tell(number: int, error: Exception | None) -> None:
        told.append((number, error))
        if {n for n, why in told if why is not None} == {1, 2}:
            both.set()

    database.writer.submit(put(1), lambda error: tell(1, error))
    database.writer.submit(put(2), lambda error: tell(2, error))
    assert both.wait(30), "whoever stands behind is not told"
    other.execute("ROLLBACK")
    other.close()
    assert database.writer.flush(30) and lines(database) == [1, 2] and database.writer.lost == 0
    assert told[-2:] == [(1, None), (2, None)]


def test_a_write_that_can_never_succeed_fails_alone(database: Database) -> None:
    told: list[Exception | None] = []
    database.writer.submit(put(1))
    database.writer.submit(put(1), told.append)
    database.writer.submit(put(2))
    assert database.writer.flush() and lines(database) == [1, 2]
    assert len([error for error in told if error is not None]) == 1 and database.writer.lost == 1


def test_what_is_written_in_the_place_of_a_failed_write_comes_before_those_behind_it(database: Database) -> None:
    told: list[Exception | None] = []
    database.writer.submit(put(1))
    database.writer.submit(put(1), told.append, instead=lambda error: put(5))
    database.writer.submit(put(1), told.append, instead=lambda error: put(1))  # no better
    database.writer.submit(put(1), told.append, instead=lambda error: None)
    database.writer.submit(put(2))
    assert database.writer.flush() and lines(database) == [1, 5, 2]
    final = [error is None for error in told if error is None or not passing(error)]
    assert final == [True, False, False] and database.writer.lost == 2


def test_closing_stores_what_waits_and_what_comes_after(database: Database) -> None:
    for number in range(300):
        database.writer.submit(put(number))
    database.writer.close()
    database.writer.submit(put(300))
    assert lines(database) == list(range(301))
