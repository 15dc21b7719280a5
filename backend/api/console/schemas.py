"""What the routes of documents and of the search take and give."""

from __future__ import annotations

from pydantic import BaseModel

from backend.api.bodies import Body
from backend.store.tables.documents import DocumentState


class DocumentView(BaseModel):
    """A document, and how reading its latest version goes."""

    id: str
    name: str
    sha256: str
    size: int
    state: DocumentState
    reason: str
    progress: float
    chunk_count: int
    embedded: int
    reused: int
    seconds: float
    version: int
    latest: int
    created: float


class Refused(BaseModel):
    """A file that was not taken in."""

    name: str
    state: DocumentState = DocumentState.FAILED
    reason: str


class Uploaded(BaseModel):
    """What became of each file."""

    data: list[DocumentView | Refused]


class DocumentList(BaseModel):
    """A page of documents; `total` is how many there are in all."""

    data: list[DocumentView]
    total: int
    offset: int
    limit: int


class PlanView(BaseModel):
    """What reading documents anew would take."""

    documents: list[str]
    chunks: int
    seconds: float
    cost: float


class ReindexBody(Body):
    """Which documents to read anew; null for those that the plan names."""

    documents: list[str] | None = None


class Chosen(BaseModel):
    """The documents that are read anew."""

    documents: list[str]


class ChunkView(BaseModel):
    """A piece of a document's text."""

    id: str
    position: int
    tokens: int
    text: str


class RateView(BaseModel):
    """How reading goes: chunks done and in all, chunks per second, seconds left."""

    done: int
    total: int
    per_second: float
    left: float


class DocumentDetail(DocumentView):
    """A document with some of its chunks; `next` is what to pass as `after` for more, null at the end."""

    chunks: list[ChunkView]
    next: int | None
    rate: RateView | None


class VersionView(BaseModel):
    """One content that a document had."""

    document_id: str
    number: int
    sha256: str
    size: int
    build: int
    chunk_count: int
    embedded: int
    reused: int
    seconds: float
    chunker: str
    created: float


class VersionList(BaseModel):
    """Versions, latest first."""

    data: list[VersionView]


class ChangeView(BaseModel):
    """Passages that a version added and removed, and how many it kept."""

    added: list[str]
    removed: list[str]
    kept: int


class CollectionsBody(Body):
    """Names of collections; those that are new are made."""

    collections: list[str]


class CollectionView(BaseModel):
    """A collection: how many documents it has, and whether it is a caller's own or everybody's."""

    name: str
    documents: int
    private: bool


class CollectionList(BaseModel):
    """The collections that the caller sees, by name."""

    data: list[CollectionView]


class CollectionBody(Body):
    """Whose a collection is to be: the caller's alone, or everybody's."""

    private: bool


class CollectionNames(BaseModel):
    """The collections that a document is in."""

    collections: list[str]


class StepView(BaseModel):
    """The edge of the graph over which a chunk was reached."""

    source: str
    target: str
    kind: str
    gain: float


class HitView(BaseModel):
    """A chunk that was found, and what its score is made of."""

    chunk_id: str
    document_id: str
    document: str
    position: int
    score: float
    cosine: float
    keyword: float
    title: float
    hop: float
    edge: StepView | None
    text: str


class Hits(BaseModel):
    """The best chunks, and how many of all were looked at."""

    mode: str
    visited: int
    total: int
    seconds: float
    data: list[HitView]
