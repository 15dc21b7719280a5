"""PostgreSQL in SQLite's place: the same tables, one server at a time, wherever it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlmodel import SQLModel, select

from backend.errors import DataFolderError
from backend.settings import Settings
from backend.store.folder import Storage
from backend.store.tables.chats import Conversation, Message


def settings(folder: Path, url: str) -> Settings:
    return Settings(data_dir=folder).model_copy(update={"database_url": url})


def test_migrations_and_tables_agree(postgres: Callable[[str], str], tmp_path: Path) -> None:
    storage = Storage(settings(tmp_path, postgres("agree")))
    with storage.database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), SQLModel.metadata) == []
    storage.close()


def test_two_servers_never_share_a_database(postgres: Callable[[str], str], tmp_path: Path) -> None:
    url = postgres("shared")
    first = Storage(settings(tmp_path / "one", url))
    with pytest.raises(DataFolderError, match="Another Tenfold server works on the database"):
        Storage(settings(tmp_path / "two", url))
    with first.database.session() as session:
        session.add(Conversation(title="kept"))
    first.close()
    second = Storage(settings(tmp_path / "two", url))
    with second.database.session() as session:
        assert session.exec(select(Conversation.title)).all() == ["kept"]
    second.close()


def test_what_belongs_to_a_row_goes_with_it(postgres: Callable[[str], str], tmp_path: Path) -> None:
    storage = Storage(settings(tmp_path, postgres("cascade")))
    with storage.database.session() as session:
        conversation = Conversation()
        session.add(conversation)
        session.flush()
        session.add(Message(conversation_id=conversation.id, position=0, role="user", text="Hello"))
    with storage.database.session() as session:
        session.delete(session.get(Conversation, conversation.id))
    with storage.database.session() as session:
        assert session.exec(select(Message.id)).all() == []
    storage.close()
