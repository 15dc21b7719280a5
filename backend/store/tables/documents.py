"""What was uploaded: documents, their versions, chunks and collections."""

from __future__ import annotations

import time
from enum import StrEnum

from sqlalchemy import Column, UniqueConstraint
from sqlmodel import Field, SQLModel

from backend.store.ids import new_id
from backend.store.states import StateType


class DocumentState(StrEnum):
    """How far a document is; what is in force answers in each of them but the last."""

    QUEUED = "queued"
    PARSING = "parsing"
    EMBEDDING = "embedding"
    READY = "ready"
    FAILED = "failed"
    DELETING = "deleting"


class Document(SQLModel, table=True):
    """An uploaded file, by its name; what its state, size and counts say is of its latest version.

    `version` and `build` are those in force, which answer until a later one is ready; 0 while there is none.
    """

    __tablename__ = "document"
    id: str = Field(default_factory=new_id, primary_key=True)
    name: str
    sha256: str = Field(index=True)
    size: int
    state: DocumentState = Field(
        default=DocumentState.QUEUED, sa_column=Column(StateType(DocumentState), nullable=False, index=True)
    )
    reason: str = ""
    progress: float = 0.0
    chunk_count: int = 0
    embedded: int = 0  # chunks whose embedding had to be computed
    reused: int = 0  # chunks whose embedding was known
    seconds: float = 0.0
    latest: int = 1  # number of the latest version uploaded
    version: int = 0
    build: int = 0
    created: float = Field(default_factory=time.time)
    updated: float = Field(default_factory=time.time)


class DocumentVersion(SQLModel, table=True):
    """One content of a document. The bytes lie in the files folder under `sha256`; `build` is its set of chunks."""

    __tablename__ = "document_version"
    document_id: str = Field(foreign_key="document.id", primary_key=True, ondelete="CASCADE")
    number: int = Field(primary_key=True)
    sha256: str = Field(index=True)
    size: int
    build: int = 0  # 0: never read
    chunk_count: int = 0
    embedded: int = 0
    reused: int = 0
    seconds: float = 0.0
    chunker: str = ""
    created: float = Field(default_factory=time.time)


class Collection(SQLModel, table=True):
    """A named set of documents: everybody's, or a tenant's, whom alone it is shown to."""

    __tablename__ = "collection"
    name: str = Field(primary_key=True)
    tenant: str | None = None
    created: float = Field(default_factory=time.time)


class CollectionDocument(SQLModel, table=True):
    """Membership; a document may be in several collections."""

    __tablename__ = "collection_document"
    collection: str = Field(foreign_key="collection.name", primary_key=True, ondelete="CASCADE")
    document_id: str = Field(foreign_key="document.id", primary_key=True, ondelete="CASCADE")


class Chunk(SQLModel, table=True):
    """A piece of a document; `text_hash` is sha256 of its normalized text. A build is one cutting of one version."""

    __tablename__ = "chunk"
    __table_args__ = (UniqueConstraint("document_id", "build", "position", name="uq_chunk_place"),)
    id: str = Field(default_factory=new_id, primary_key=True)
    document_id: str = Field(foreign_key="document.id", index=True, ondelete="CASCADE")
    build: int = 1
    position: int
    text: str
    text_hash: str = Field(index=True)
    tokens: int
    chunker: str
