"""API keys: shown once, stored hashed, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time

from sqlmodel import col, select

from backend.store.database import Database
from backend.store.tables import ApiKey

PREFIX = "tf-"


def _digest(key: str) -> str:
    # Keys are 256 random bits, so a plain hash cannot be searched; a slow one would only slow every request down.
    return hashlib.sha256(key.encode()).hexdigest()


class ApiKeys:
    """Creates, checks and revokes keys."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, name: str) -> str:
        """Make a key and return it; it cannot be shown again."""
        key = PREFIX + secrets.token_urlsafe(32)
        with self._database.session() as session:
            session.add(ApiKey(name=name.strip() or "unnamed", prefix=key[:9], digest=_digest(key)))
        return key

    def check(self, key: str) -> ApiKey | None:
        """The key's row if it is valid. Every stored hash is compared, each in constant time."""
        wanted, found = _digest(key), None
        with self._database.session() as session:
            for row in session.exec(select(ApiKey)).all():
                if hmac.compare_digest(row.digest, wanted):
                    found = row
            if found is not None and (found.used or 0) < time.time() - 60:
                found.used = time.time()
                session.add(found)
        return found

    def find(self) -> list[ApiKey]:
        """All keys, latest first."""
        with self._database.session() as session:
            return list(session.exec(select(ApiKey).order_by(col(ApiKey.created).desc())).all())

    def revoke(self, key_id: str) -> None:
        """Delete a key; it stops working at once."""
        with self._database.session() as session:
            row = session.get(ApiKey, key_id)
            if row is not None:
                session.delete(row)
