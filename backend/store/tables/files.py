"""Files of /v1/files; their bytes lie in a folder of their own under their hash."""

from __future__ import annotations

import time

from sqlmodel import BigInteger, Field, SQLModel

from backend.store.ids import ordered_id


class StoredFile(SQLModel, table=True):
    """A name for some bytes, which several may name. Ids sort by the time of making."""

    __tablename__ = "stored_file"
    id: str = Field(default_factory=lambda: f"file-{ordered_id()}", primary_key=True)
    tenant: str = Field(index=True)  # whose it is
    name: str
    purpose: str
    sha256: str = Field(index=True)
    size: int = Field(sa_type=BigInteger)
    listed: bool = True  # False: held by a batch that reads it, whatever becomes of the file that was uploaded
    created: float = Field(default_factory=time.time)
    expires: float | None = Field(default=None, index=True)
