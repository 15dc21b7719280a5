"""PostgreSQL in SQLite's place: the same tables, one server at a time, wherever it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlmodel import SQLModel, select

from backend.errors import DataFolderError
from backend.knowledge.collections import Collections
from backend.knowledge.documents import Documents
from backend.knowledge.sight import SHARED, Sight
from backend.knowledge.signals import ReaderSignals
from backend.settings import Settings
from backend.store.folder import Storage
from backend.store.tables.chats import Conversation, Message
from backend.store.tables.documents import CollectionDocument, Document


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


def test_what_a_caller_sees_is_the_same_there(postgres: Callable[[str], str], tmp_path: Path) -> None:
    storage = Storage(settings(tmp_path, postgres("sight")))
    collections, documents = Collections(storage.database), Documents(storage.database, ReaderSignals())
    me, them, admin = Sight("me"), Sight("them"), Sight("root", everything=True)
    collections.define("diary", me, private=True)
    collections.define("open", them, private=False)
    with storage.database.session() as session:
        session.add_all([Document(id=name, name=name, sha256=name, size=1, build=1) for name in "ab"])
        session.flush()
        session.add_all([CollectionDocument(collection=c, document_id=d) for c, d in (("diary", "a"), ("open", "b"))])
    for sight, seen in ((me, 2), (admin, 2), (them, 1), (SHARED, 1)):
        assert len(collections.listed(sight)) == len(collections.memberships(sight)) == seen
        assert documents.count(sight) == len(documents.latest(sight)) == documents.pending(sight) == seen
        assert documents.any_searchable(sight) and documents.count(sight, "diary") == seen - 1
    assert documents.searchable(me) is documents.searchable(admin) is None and documents.searchable(them) == {"b"}
    assert collections.assign("b", ["open", "diary"], me) == ["diary", "open"]
    assert collections.assign("b", ["third"], them) == ["third"]
    assert collections.memberships(admin)["b"] == ["diary", "third"]
    collections.delete("open", them)
    storage.close()
