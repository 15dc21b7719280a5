"""What the disk and the database say when they cannot, in words that a user can act on.

One mapping for every room: a full disk and a locked database are nobody's mistake, last for a while, and read alike.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import exc

from backend.errors import InvalidInputError, StorageError, TenfoldError

FULL = "The disk is full: free space where Tenfold keeps its data, then try again."
BUSY = "The database is busy with another's writing; try again in a moment."
BROKEN = "The data folder cannot be read or written now (disk I/O error); look at the disk, then try again."
READ_ONLY = "The data folder is read-only: allow Tenfold to write there, then try again."
AWAY = "The database cannot be reached now; try again in a moment."

SQLITE = {
    sqlite3.SQLITE_FULL: FULL,
    sqlite3.SQLITE_BUSY: BUSY,
    sqlite3.SQLITE_LOCKED: BUSY,
    sqlite3.SQLITE_IOERR: BROKEN,
    sqlite3.SQLITE_CANTOPEN: BROKEN,
    sqlite3.SQLITE_READONLY: READ_ONLY,
}
SYSTEM = {errno.ENOSPC: FULL, errno.EDQUOT: FULL, errno.EIO: BROKEN, errno.EROFS: READ_ONLY}
WORDS = {"disk is full": FULL, "No space left on device": FULL, "database is locked": BUSY}
"""Chroma hands on what SQLite said as a text."""


def named_failure(error: BaseException) -> TenfoldError | None:
    """What to tell a user instead of the database's or the system's own words; None for any other error."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, TenfoldError):
            return link
        if message := _storage(link):
            return StorageError(message)
        if isinstance(link, UnicodeEncodeError) and "surrogates" in link.reason:
            return InvalidInputError("A text contains half a character (a lone surrogate), which cannot be kept.")
        if isinstance(link, OverflowError) and "SQLite" in str(link):
            return InvalidInputError("A number is larger than can be kept.")
        link = link.__cause__
    return None


def _storage(error: BaseException) -> str | None:
    if isinstance(error, sqlite3.Error):
        return SQLITE.get((getattr(error, "sqlite_errorcode", None) or 0) & 0xFF)
    if isinstance(error, OSError):
        return SYSTEM.get(error.errno or 0)
    if isinstance(error, exc.TimeoutError):
        return BUSY  # no connection became free
    if isinstance(error, exc.OperationalError) and not isinstance(error.orig, sqlite3.Error):
        return AWAY
    if type(error).__module__.startswith("chromadb"):
        return next((message for words, message in WORDS.items() if words in str(error)), None)
    return None


@contextmanager
def named_failures() -> Iterator[None]:
    """Let errors of the disk and the database come out as errors of Tenfold's tree; others pass as they are."""
    try:
        yield
    except TenfoldError:
        raise
    except Exception as error:
        named = named_failure(error)
        if named is None:
            raise
        raise named from error
