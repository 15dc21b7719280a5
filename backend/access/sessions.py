"""Sign-ins of people: a random id in a cookie, stored hashed, that stands for a key until it expires or is ended."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlmodel import col, delete, select

from backend.access.caller import Caller
from backend.access.keys import ApiKeys, digest
from backend.store.database import Database
from backend.store.tables.access import SignIn

LIFETIME = 30 * 86_400.0
"""Seconds that a sign-in lasts."""


@dataclass(frozen=True)
class Session:
    """A sign-in in force: its stored name, whose it is, and when it ends (seconds since the epoch)."""

    id: str
    caller: Caller
    expires: float


class Sessions:
    """Opens, checks and ends sign-ins; checking one never waits for the database.

    Args:
        database: where they are kept.
        keys: a sign-in ends with the key that opened it.
        ended: called with a session's id when it is ended.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        database: Database,
        keys: ApiKeys,
        ended: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database, self._keys, self._ended, self._clock = database, keys, ended, clock
        with database.session() as session:
            session.connection().execute(delete(SignIn).where(col(SignIn.expires) < clock()))
            rows = session.exec(select(SignIn)).all()
        self._rows = {row.digest: row for row in rows}

    def open(self, caller: Caller) -> str:
        """Sign somebody in with their key; returns the secret for the cookie."""
        secret, now = secrets.token_urlsafe(32), self._clock()
        row = SignIn(digest=digest(secret), key_id=caller.id, created=now, expires=now + LIFETIME)
        with self._database.session() as session:
            session.add(row)
        self._rows[row.digest] = row
        return secret

    def check(self, secret: str) -> Session | None:
        """The sign-in behind a cookie, if it is in force."""
        row = self._rows.get(digest(secret))
        if row is None or row.expires < self._clock():
            return None
        caller = self._keys.caller(row.key_id)
        return Session(row.digest, caller, row.expires) if caller is not None else None

    def close(self, secret: str) -> None:
        """Sign out: the cookie stops working and the pages that it opened end."""
        row = self._rows.pop(digest(secret), None)
        if row is None:
            return
        with self._database.session() as session:
            session.connection().execute(delete(SignIn).where(col(SignIn.digest) == row.digest))
        self._ended(row.digest)
