"""API keys: shown once, stored hashed, held in memory, so that checking one never waits for the database."""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from sqlmodel import col, select

from backend.access.caller import Caller, Role
from backend.errors import NotFoundError
from backend.store.database import Database
from backend.store.ids import new_id
from backend.store.limits import NONE, Limits
from backend.store.tables.access import ApiKey

log = logging.getLogger(__name__)

PREFIX = "tf-"
USED_RESOLUTION = 60.0
"""Seconds between two notes that a key was used."""


def digest(secret: str) -> str:
    """What is stored of a secret of 256 random bits: nobody can search for it, so a plain hash is enough."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


class ApiKeys:
    """Creates, checks and revokes keys.

    Args:
        database: where they are kept.
        ended: called with a key's id when it stops working.
    """

    def __init__(self, database: Database, ended: Callable[[str], None] = lambda _: None) -> None:
        self._database, self._ended = database, ended
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="key-use")
        self._keys: dict[str, ApiKey] = {}  # by the hash; replaced whole, so it is read without a lock
        self._load()

    def _load(self) -> None:
        with self._database.session() as session:
            self._keys = {row.digest: row for row in session.exec(select(ApiKey)).all()}
        self._limits = {row.id: row.limits for row in self._keys.values()}

    def create(self, name: str, role: Role = Role.USER, tenant: str | None = None) -> str:
        """Make a key and return it; it cannot be shown again.

        Args:
            name: what it is for.
            role: what it allows.
            tenant: whose things it sees; None for an owner of its own.
        """
        key, key_id = PREFIX + secrets.token_urlsafe(32), new_id()
        row = ApiKey(
            id=key_id, name=name.strip() or "unnamed", prefix=key[:9], digest=digest(key), role=role,
            tenant=key_id if tenant is None else tenant,
        )  # fmt: skip
        with self._database.session() as session:
            session.add(row)
        self._load()
        return key

    def check(self, key: str) -> Caller | None:
        """Whose key it is, if it is valid. Looked up by its hash, whose timing tells nothing about a key."""
        row = self._keys.get(digest(key))
        if row is None:
            return None
        now = time.time()
        if (row.used or 0) < now - USED_RESOLUTION:
            row.used = now
            self._writer.submit(self._note_use, row.id, now)
        return _caller(row)

    def caller(self, key_id: str) -> Caller | None:
        """Whose a key is by its id, while it is valid."""
        return next((_caller(row) for row in self._keys.values() if row.id == key_id), None)

    def latest(self) -> list[ApiKey]:
        """All keys, latest first."""
        with self._database.session() as session:
            return list(session.exec(select(ApiKey).order_by(col(ApiKey.created).desc())).all())

    def limits(self, key_id: str) -> Limits:
        """What a key may use; no limits of one that is gone."""
        return self._limits.get(key_id, NONE)

    def shown(self, key_id: str) -> str:
        """How a key is named to people who may have forgotten its id: by its beginning."""
        return next((f"{row.prefix}…" for row in self._keys.values() if row.id == key_id), key_id[:8])

    @property
    def limited(self) -> list[str]:
        """Ids of the keys that have limits."""
        return [key_id for key_id, limits in self._limits.items() if limits != NONE]

    def limit(self, key_id: str, **changes: int | None) -> ApiKey:
        """Change what a key may use, from its next request on; limits that are not named stay.

        Raises:
            NotFoundError: there is no such key.
        """
        with self._database.session() as session:
            row = session.get(ApiKey, key_id)
            if row is None:
                raise NotFoundError("There is no key of this id.")
            limits = replace(row.limits, **changes)  # type: ignore[arg-type]
            row.requests_per_minute, row.warn_percent = limits.requests_per_minute, limits.warn_percent
            row.day_limit, row.month_limit = limits.day, limits.month
            session.add(row)
        self._load()
        return row

    def revoke(self, key_id: str) -> None:
        """Delete a key: calls, sign-ins and pages that it opened end at once.

        Raises:
            NotFoundError: there is no such key.
        """
        with self._database.session() as session:
            row = session.get(ApiKey, key_id)
            if row is None:
                raise NotFoundError("This key does not exist; it may have been revoked already.")
            session.delete(row)
        self._load()
        self._ended(key_id)

    def close(self) -> None:
        """Wait for what is being written."""
        self._writer.shutdown()

    def _note_use(self, key_id: str, when: float) -> None:
        try:
            with self._database.session() as session:
                row = session.get(ApiKey, key_id)
                if row is not None:
                    row.used = when
                    session.add(row)
        except Exception:
            log.exception("the use of a key could not be noted")


def _caller(row: ApiKey) -> Caller:
    return Caller(row.id, row.tenant, Role(row.role))
