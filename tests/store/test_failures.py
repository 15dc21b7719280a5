"""A full disk, a locked database and what no database can hold are said in words that a user can act on."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlmodel import select

from backend.errors import InvalidInputError, NotFoundError, StorageError
from backend.store.database import Database
from backend.store.failures import named_failure
from backend.store.tables.documents import Collection, Document


@pytest.fixture
def database(tmp_path: Path) -> Database:
    made = Database(f"sqlite:///{tmp_path / 'x.sqlite3'}")
    made.migrate()
    made.close()
    event.listen(made.engine, "connect", lambda connection, _: connection.execute("PRAGMA busy_timeout=10"))
    return made


def test_a_locked_database_is_busy_and_not_broken(database: Database, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "x.sqlite3", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="busy") as raised, database.session() as session:
            session.add(Collection(name="a"))
        assert raised.value.status == 503
        other.execute("ROLLBACK")
    other.close()
    with database.session() as session:
        session.add(Collection(name="a"))


def test_a_full_database_says_that_the_disk_is_full(database: Database) -> None:
    event.listen(database.engine, "connect", lambda connection, _: connection.execute("PRAGMA max_page_count=1"))
    database.close()
    with pytest.raises(StorageError, match="disk is full"), database.session() as session:
        session.add_all([Collection(name=f"{i} {'x' * 90}") for i in range(5000)])


def test_what_no_database_can_hold_is_the_callers_mistake(database: Database) -> None:
    with pytest.raises(InvalidInputError, match="surrogate"), database.session() as session:
        session.get(Document, "\ud800")
    with pytest.raises(InvalidInputError, match="larger"), database.session() as session:
        session.exec(select(Document).where(Document.latest == 10**30)).all()


def test_other_errors_pass_as_they_are(database: Database) -> None:
    with pytest.raises(NotFoundError), database.session():
        raise NotFoundError("nothing")
    with pytest.raises(KeyError), database.session():
        raise KeyError("ours")
    assert named_failure(OSError(errno.ENOENT, "no such file")) is None
    assert isinstance(named_failure(OSError(errno.ENOSPC, "full")), StorageError)


def test_a_state_comes_back_as_a_state(database: Database) -> None:
    from backend.store.tables.documents import DocumentState

    with database.session() as session:
        session.add(Document(id="d", name="a", sha256="x", size=1, state=DocumentState.FAILED))
    with database.session() as session:
        assert session.exec(select(Document.state)).one() is DocumentState.FAILED
