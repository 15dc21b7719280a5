"""Who may enter: keys, and sign-ins with them."""

from __future__ import annotations

import time

from sqlmodel import Field, SQLModel

from backend.store.ids import new_id


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


class SignIn(SQLModel, table=True):
    """A person's sign-in with a key, by the hash of what their browser keeps."""

    __tablename__ = "sign_in"
    digest: str = Field(primary_key=True)
    key_id: str = Field(foreign_key="api_key.id", index=True, ondelete="CASCADE")
    created: float = Field(default_factory=time.time)
    expires: float = Field(index=True)
