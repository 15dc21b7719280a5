"""The data folder and database of one server: private, held by one process, and never begun anew by mistake."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy import Connection, func, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DatabaseError

from backend.errors import DataFolderError
from backend.settings import Settings
from backend.store.database import Database

LEAST_FREE = 1 << 20
"""Bytes without which a disk counts as full."""
LOCK_NUMBER = 0x7E2F01D
"""Of the advisory lock that a server holds in PostgreSQL; it ends with its connection, however the server ends."""


class Storage:
    """What a server keeps: its folder, its database, and the locks that keep other servers off both.

    Raises:
        DataFolderError: another server uses them, or they are full, damaged, read-only or emptied; says what to do.
    """

    def __init__(self, settings: Settings) -> None:
        self._locks: list[FileLock] = []
        self._held: Connection | None = None  # has a lock in the database itself
        os.umask(0o077)  # what is made from here on, by the engine too, is its owner's alone
        try:
            with _explained(settings):
                folder = settings.data_dir
                folder.mkdir(parents=True, exist_ok=True)
                _make_private(folder)
                self._claim(folder / ".lock", f"in {folder}. Stop it, or set TENFOLD_DATA_DIR.")
                path = sqlite_file(settings.sql_url)
                if path is not None:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    self._claim(
                        path.with_name(path.name + ".lock"), f"on the database {path}. Stop it, or set DATABASE_URL."
                    )
                    _refuse_emptied(settings, path)
                    for part in (path, *path.parent.glob(f"{path.name}-*")):
                        _make_private(part)
                self.database = _opened(settings.sql_url, self._claim_server)
        except BaseException:
            self._release()
            raise

    def _claim(self, lock_file: Path, what: str) -> None:
        lock = FileLock(lock_file)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise DataFolderError(f"Another Tenfold server works {what}") from None
        self._locks.append(lock)

    def _claim_server(self, database: Database) -> None:
        """Hold a lock in a database that other machines reach too, before its schema is touched."""
        if database.engine.dialect.name != "postgresql":
            return
        connection = database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        if not connection.execute(select(func.pg_try_advisory_lock(LOCK_NUMBER))).scalar():
            connection.close()
            where = database.engine.url.render_as_string(hide_password=True)
            raise DataFolderError(
                f"Another Tenfold server works on the database {where}. Stop it, or set DATABASE_URL."
            )
        self._held = connection

    def _release(self) -> None:
        if self._held is not None:
            self._held.invalidate()  # ends the connection, and with it the lock
            self._held.close()
        for lock in self._locks:
            lock.release()

    def close(self) -> None:
        """Close the database and let others have it."""
        self.database.close()
        self._release()


def _opened(url: str, claim: Callable[[Database], None]) -> Database:
    database = Database(url)
    try:
        claim(database)
        database.migrate()
    except BaseException:
        database.close()
        raise
    return database


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite database; None for another database."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        return None
    return Path(parsed.database).resolve()


def _make_private(path: Path) -> None:
    """Take others' rights away; what is not ours stays as it is."""
    with suppress(FileNotFoundError, PermissionError):
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            path.chmod(mode & 0o700)


def _refuse_emptied(settings: Settings, path: Path) -> None:
    """A new database beside documents of an old one would be taken for the truth, and they would be swept away."""
    new = not path.exists() or path.stat().st_size == 0
    left = [folder for folder in (settings.files_dir, settings.index_dir) if folder.is_dir() and any(folder.iterdir())]
    if new and left:
        raise DataFolderError(
            f"The database {path} is missing or empty, but {settings.data_dir} holds what it described. Restore it "
            f"from a backup, or move {' and '.join(map(str, left))} away to begin anew. Nothing was changed."
        )


@contextmanager
def _explained(settings: Settings) -> Iterator[None]:
    """Errors of disk and database as sentences."""
    try:
        yield
    except OSError as error:
        raise DataFolderError(_disk_sentence(error, settings)) from error
    except DatabaseError as error:
        raise DataFolderError(_database_sentence(str(error.orig), settings)) from error


def _disk_sentence(error: OSError, settings: Settings) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk of {settings.data_dir} is full. Free some space and start again; nothing was lost."
    return (
        f"{error.filename or settings.data_dir} cannot be used: {error.strerror or error}. "
        "Make it writable for this user, or set TENFOLD_DATA_DIR to a folder that is."
    )


def _database_sentence(problem: str, settings: Settings) -> str:
    name = make_url(settings.sql_url).render_as_string(hide_password=True)
    said = problem.lower()
    path = sqlite_file(settings.sql_url)
    # SQLite says "I/O error" where the file that its readers share does not fit.
    if "full" in said or (path is not None and "i/o" in said and shutil.disk_usage(path.parent).free < LEAST_FREE):
        return f"The disk of the database {name} is full. Free some space and start again; nothing was lost."
    if "not a database" in said or "malformed" in said:
        return (
            f"The database {name} is damaged: {problem}. Restore it from a backup, or move the data folder away to "
            "begin anew. Nothing was changed."
        )
    if "readonly" in said or "unable to open" in said or "disk i/o" in said:
        return f"The database {name} cannot be written: {problem}. Make it and its folder writable for this user."
    return f"The database {name} cannot be used: {problem}."
