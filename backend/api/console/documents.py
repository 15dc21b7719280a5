"""Uploaded documents, their versions and collections, over HTTP."""

from __future__ import annotations

import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Form, Path, Query, UploadFile
from pydantic import BaseModel

from backend.api.bodies import Body, Text
from backend.api.deps import RuntimeDep
from backend.api.rooms import Room
from backend.errors import InvalidInputError, TenfoldError
from backend.knowledge.collections import DEFAULT_COLLECTION
from backend.store.failures import named_failures
from backend.store.tables.documents import Document, DocumentState

router = APIRouter(prefix="/api/documents", tags=["Documents"], route_class=Room(8).route_class())

MOST_ROWS, MOST_CHUNKS = 500, 1000
"""Documents, and chunks of one, that come at once."""
MOST = (1 << 31) - 1
"""Largest number of a version: what every database's integers hold."""


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


class CollectionNames(BaseModel):
    """The collections that a document is in."""

    collections: list[str]


def _describe(document: Document) -> DocumentView:
    return DocumentView.model_validate(document, from_attributes=True)


def _pieces(file: UploadFile) -> Iterator[bytes]:
    while piece := file.file.read(1 << 20):
        yield piece


@router.post("", status_code=202, summary="Upload files")
def upload(
    files: list[UploadFile], runtime: RuntimeDep, collection: Annotated[Text, Form()] = DEFAULT_COLLECTION
) -> Uploaded:
    """Take files (and zip archives of files) in; each is read in the background.

    Those refused at once come back as failed. A changed file of a known name is a new version of its document.
    """
    if not files:
        raise InvalidInputError("No file was sent; use the multipart field 'files'.", param="files")
    out: list[DocumentView | Refused] = []
    errors: list[TenfoldError] = []
    for file in files:
        name = file.filename or ""
        try:
            if name.lower().endswith(".zip"):
                with named_failures(), tempfile.NamedTemporaryFile(suffix=".zip") as aside:
                    shutil.copyfileobj(file.file, aside)
                    aside.flush()
                    documents, refused = runtime.uploads.upload_archive(name, pathlib.Path(aside.name), collection)
                out += [_describe(document) for document in documents]
                out += [Refused(name=name, reason=reason) for reason in refused]
            else:
                out.append(_describe(runtime.uploads.upload(name, _pieces(file), collection)))
        except TenfoldError as error:
            errors.append(error)
            out.append(Refused(name=name, reason=error.message))
    if errors and len(errors) == len(files):
        raise errors[0]
    return Uploaded(data=out)


@router.get("", summary="List documents")
def find(
    runtime: RuntimeDep,
    collection: Text | None = None,
    offset: Annotated[int, Query(ge=0, le=MOST)] = 0,
    limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 100,
) -> DocumentList:
    """Latest first, a page at a time."""
    rows = [_describe(row) for row in runtime.documents.find(collection, offset=offset, limit=limit)]
    return DocumentList(data=rows, total=runtime.documents.count(collection), offset=offset, limit=limit)


@router.get("/reindex", summary="Plan reading anew")
def plan(runtime: RuntimeDep) -> PlanView:
    """Which documents were cut or embedded otherwise than now, and what reading them anew would take."""
    return PlanView(**asdict(runtime.planner.stale()))


@router.post("/reindex", status_code=202, summary="Read documents anew")
def reindex(runtime: RuntimeDep, body: ReindexBody | None = None) -> Chosen:
    """Those named, or those that the plan names."""
    named = body.documents if body is not None else None
    chosen = runtime.planner.stale().documents if named is None else named
    runtime.documents.reread(chosen)
    return Chosen(documents=chosen)


@router.get("/{document_id}", summary="Read a document")
def get(
    document_id: Text,
    runtime: RuntimeDep,
    version: Annotated[int | None, Query(ge=1, le=MOST)] = None,
    after: Annotated[int, Query(ge=-1, le=MOST, description="Position of the last chunk already seen.")] = -1,
    limit: Annotated[int, Query(ge=1, le=MOST_CHUNKS)] = 200,
) -> DocumentDetail:
    """With chunks of its version in force, or of another, some at a time."""
    document = runtime.documents.get(document_id)
    chunks = runtime.documents.chunks(document_id, version, after=after, limit=limit + 1)
    shown = chunks[:limit]
    rate = runtime.reader.rate(document_id)
    return DocumentDetail(
        **_describe(document).model_dump(),
        chunks=[ChunkView.model_validate(chunk, from_attributes=True) for chunk in shown],
        next=shown[-1].position if len(chunks) > limit else None,
        rate=RateView.model_validate(rate, from_attributes=True) if rate else None,
    )


@router.get("/{document_id}/versions", summary="List a document's versions")
def versions(document_id: Text, runtime: RuntimeDep) -> VersionList:
    """Latest first."""
    runtime.documents.get(document_id)
    found = runtime.documents.versions(document_id)
    return VersionList(data=[VersionView.model_validate(version, from_attributes=True) for version in found])


@router.get("/{document_id}/versions/{number}/changes", summary="Compare a version with the one before")
def changes(document_id: Text, number: Annotated[int, Path(ge=1, le=MOST)], runtime: RuntimeDep) -> ChangeView:
    """What a version's text added and removed."""
    return ChangeView(**asdict(runtime.documents.changes(document_id, number)))


@router.put("/{document_id}/collections", summary="Put a document into collections")
def collect(document_id: Text, runtime: RuntimeDep, body: CollectionsBody) -> CollectionNames:
    """Into these and no others; nothing is embedded again."""
    return CollectionNames(collections=runtime.collections.set(document_id, body.collections))


@router.post("/{document_id}/retry", status_code=202, summary="Read a failed document again")
def retry(document_id: Text, runtime: RuntimeDep) -> DocumentView:
    """Its latest version."""
    runtime.documents.retry(document_id)
    return _describe(runtime.documents.get(document_id))


@router.post("/{document_id}/cancel", status_code=202, summary="Stop reading a document")
def cancel(document_id: Text, runtime: RuntimeDep) -> DocumentView:
    """A version in force stays."""
    runtime.documents.cancel(document_id)
    return _describe(runtime.documents.get(document_id))


@router.delete("/{document_id}", status_code=204, summary="Delete a document")
def delete(document_id: Text, runtime: RuntimeDep) -> None:
    """In whatever state it is."""
    runtime.documents.delete(document_id)
