"""What the gate asks, in one hand: the settings, the keys, the sign-ins and the open sockets of a server."""

from __future__ import annotations

from dataclasses import dataclass

from backend.access.keys import ApiKeys
from backend.access.sessions import Sessions
from backend.access.sockets import OpenSockets
from backend.settings import Settings
from backend.store.database import Database


@dataclass(frozen=True)
class Access:
    """Who may enter one server. A key or sign-in that ends closes the sockets that it opened."""

    settings: Settings
    keys: ApiKeys
    sessions: Sessions
    sockets: OpenSockets

    @classmethod
    def of(cls, settings: Settings, database: Database) -> Access:
        """Read keys and sign-ins from a database."""
        sockets = OpenSockets()
        keys = ApiKeys(database, sockets.end)
        return cls(settings, keys, Sessions(database, keys, sockets.end), sockets)

    def close(self) -> None:
        """Wait for what is being written."""
        self.keys.close()
