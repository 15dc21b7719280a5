"""The database: engine, sessions, migrations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import event
from sqlalchemy.engine import Engine, make_url
from sqlmodel import Session, create_engine

from backend.store.failures import named_failures
from backend.store.writer import BackgroundWriter

MIGRATIONS = Path(__file__).with_name("migrations")


class Database:
    """Opens the database, brings its schema up to date, hands out sessions.

    Args:
        url: SQLAlchemy URL. SQLite runs in WAL mode, so readers never wait for a writer.

    Attributes:
        writer: for what nobody waits for; no stream and no event loop may wait for the disk.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        sqlite = make_url(url).get_backend_name() == "sqlite"
        if sqlite:
            database = make_url(url).database
            if database:
                Path(database).parent.mkdir(parents=True, exist_ok=True)
        arguments: dict[str, Any] = {"check_same_thread": False, "timeout": 30} if sqlite else {}
        self.engine: Engine = create_engine(url, connect_args=arguments)
        if sqlite:
            event.listen(self.engine, "connect", _set_pragmas)
        self.writer = BackgroundWriter(self.session)

    def migrate(self, revision: str = "head") -> None:
        """Apply every migration up to a revision that the schema lacks."""
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        with self.engine.begin() as connection:
            config.attributes["connection"] = connection
            if connection.dialect.name == "sqlite":  # its driver would commit tables before the rows that go into them
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            command.upgrade(config, revision)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A session that commits on a clean end and rolls back on an error; rows stay readable afterwards.

        Raises:
            StorageError: the disk is full, or the database is locked or cannot be reached.
            InvalidInputError: a text or number that no database can hold.
        """
        with named_failures(), Session(self.engine, expire_on_commit=False) as session:
            yield session
            session.commit()

    def close(self) -> None:
        """Store what still waits to be written, and close every connection."""
        self.writer.close()
        self.engine.dispose()


def _set_pragmas(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=30000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
