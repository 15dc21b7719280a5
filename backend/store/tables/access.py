"""Who may enter: keys, and sign-ins with them."""

from __future__ import annotations

import time

from sqlmodel import BigInteger, Field, SQLModel

from backend.store.ids import new_id
from backend.store.limits import WARN_PERCENT, Limits


class ApiKey(SQLModel, table=True):
    """A credential; only its hash is kept."""

    __tablename__ = "api_key"
    id: str = Field(default_factory=new_id, primary_key=True)
    name: str
    prefix: str
    digest: str = Field(unique=True)
    role: str = "admin"  # admin, user, read_only
    tenant: str = ""  # whose chats, private collections and prompt cache it opens
    created: float = Field(default_factory=time.time)
    used: float | None = None
    requests_per_minute: int | None = None
    day_limit: int | None = Field(default=None, sa_type=BigInteger)  # nano-dollars
    month_limit: int | None = Field(default=None, sa_type=BigInteger)  # nano-dollars
    warn_percent: int = WARN_PERCENT

    @property
    def limits(self) -> Limits:
        """What it may use."""
        return Limits(self.requests_per_minute, self.day_limit, self.month_limit, self.warn_percent)


class SignIn(SQLModel, table=True):
    """A person's sign-in with a key, by the hash of what their browser keeps."""

    __tablename__ = "sign_in"
    digest: str = Field(primary_key=True)
    key_id: str = Field(foreign_key="api_key.id", index=True, ondelete="CASCADE")
    created: float = Field(default_factory=time.time)
    expires: float = Field(index=True)
