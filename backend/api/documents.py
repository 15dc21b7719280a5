"""Uploaded documents, their versions and collections, and the search over them, over HTTP."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Form, Query, UploadFile
from fastapi import Path as Path_
from pydantic import BaseModel, ConfigDict

from backend.api.dependencies import runtime_of
from backend.api.rooms import Room
from backend.errors import InvalidInputError, TenfoldError
from backend.knowledge.collections import DEFAULT_COLLECTION
from backend.knowledge.plan import Plan
from backend.knowledge.search import MODES
from backend.runtime import Runtime
from backend.store.failures import named_failures
from backend.store.tables import Document, DocumentState

router = APIRouter(prefix="/api/documents", tags=["Documents"], route_class=Room(8).route_class())
search_router = APIRouter(prefix="/api/search", tags=["Documents"], route_class=Room(8).route_class())
RuntimeDep = Annotated[Runtime, Depends(runtime_of)]

NUMBER = Path_(ge=1, le=2**31 - 1)
MOST_ROWS = 500
MOST_CHUNKS = 1000


class DocumentOut(BaseModel):
    """A document; what its state, size and counts say is of its latest version, `version` is the one that answers."""

    model_config = ConfigDict(from_attributes=True)

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


class RefusedOut(BaseModel):
    """A file that was not taken in, and why."""

    name: str
    state: DocumentState = DocumentState.FAILED
    reason: str


class UploadsOut(BaseModel):
    """What became of each file that was sent."""

    data: list[DocumentOut | RefusedOut]


class DocumentsOut(BaseModel):
    """A page of documents; `total` is how many there are in all."""

    data: list[DocumentOut]
    total: int
    offset: int
    limit: int


class ChunkOut(BaseModel):
    """A piece of a document's text."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    position: int
    tokens: int
    text: str


class RateOut(BaseModel):
    """How reading goes: chunks done and in all, chunks per second, seconds left."""

    model_config = ConfigDict(from_attributes=True)

    done: int
    total: int
    per_second: float
    left: float


class DocumentDetailOut(DocumentOut):
    """A document with some of its chunks; `next` is what to pass as `after` for more, null at the end."""

    chunks: list[ChunkOut]
    next: int | None
    rate: RateOut | None


def _described(document: Document) -> DocumentOut:
    return DocumentOut.model_validate(document)


def _pieces(file: UploadFile) -> Iterator[bytes]:
    while piece := file.file.read(1 << 20):
        yield piece


@router.post("", status_code=202)
def upload(
    files: list[UploadFile], runtime: RuntimeDep, collection: Annotated[str, Form()] = DEFAULT_COLLECTION
) -> UploadsOut:
    """Take files (and zip archives of files) in; each is read in the background.

    Those refused at once come back as failed. A changed file of a known name is a new version of its document.
    """
    if not files:
        raise InvalidInputError("No file was sent; use the multipart field 'files'.", param="files")
    out: list[DocumentOut | RefusedOut] = []
    errors: list[TenfoldError] = []
    for file in files:
        name = file.filename or ""
        try:
            if name.lower().endswith(".zip"):
                with named_failures(), tempfile.NamedTemporaryFile(suffix=".zip") as aside:
                    shutil.copyfileobj(file.file, aside)
                    aside.flush()
                    documents, refused = runtime.uploads.upload_archive(name, Path(aside.name), collection)
                out += map(_described, documents)
                out += [RefusedOut(name=name, reason=reason) for reason in refused]
            else:
                out.append(_described(runtime.uploads.upload(name, _pieces(file), collection)))
        except TenfoldError as error:
            errors.append(error)
            out.append(RefusedOut(name=name, reason=error.message))
    if errors and len(errors) == len(files):
        raise errors[0]
    return UploadsOut(data=out)


@router.get("")
def find(
    runtime: RuntimeDep,
    collection: str | None = None,
    offset: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0,
    limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 100,
) -> DocumentsOut:
    """Documents, latest first, a page at a time."""
    rows = runtime.documents.find(collection, offset=offset, limit=limit)
    return DocumentsOut(
        data=[_described(row) for row in rows], total=runtime.documents.count(collection), offset=offset, limit=limit
    )


@router.get("/reindex")
def plan(runtime: RuntimeDep) -> Plan:
    """Which documents were cut or embedded otherwise than now, and what reading them anew would take."""
    return runtime.planner.stale()


@router.post("/reindex", status_code=202)
def reindex(
    runtime: RuntimeDep, documents: Annotated[list[str] | None, Body(embed=True)] = None
) -> dict[str, list[str]]:
    """Read documents anew: those named, or those that the plan names."""
    chosen = runtime.planner.stale().documents if documents is None else documents
    runtime.documents.reread(chosen)
    return {"documents": chosen}


@router.get("/{document_id}")
def get(
    document_id: str,
    runtime: RuntimeDep,
    version: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
    after: Annotated[int, Query(ge=-1, le=2**31 - 1, description="Position of the last chunk already seen.")] = -1,
    limit: Annotated[int, Query(ge=1, le=MOST_CHUNKS)] = 200,
) -> DocumentDetailOut:
    """One document with chunks of its version in force, or of another, some at a time."""
    document = runtime.documents.get(document_id)
    chunks = runtime.documents.chunks(document_id, version, after=after, limit=limit + 1)
    shown = chunks[:limit]
    rate = runtime.ingest.rate(document_id)
    return DocumentDetailOut(
        **_described(document).model_dump(),
        chunks=[ChunkOut.model_validate(chunk) for chunk in shown],
        next=shown[-1].position if len(chunks) > limit else None,
        rate=RateOut.model_validate(rate) if rate else None,
    )


@router.get("/{document_id}/versions")
def versions(document_id: str, runtime: RuntimeDep) -> dict[str, Any]:
    """The versions of a document, latest first."""
    runtime.documents.get(document_id)
    return {"data": [version.model_dump() for version in runtime.documents.versions(document_id)]}


@router.get("/{document_id}/versions/{number}/changes")
def changes(document_id: str, number: Annotated[int, NUMBER], runtime: RuntimeDep) -> dict[str, Any]:
    """What a version's text added and removed."""
    return asdict(runtime.documents.changes(document_id, number))


@router.put("/{document_id}/collections")
def collect(
    document_id: str, runtime: RuntimeDep, collections: Annotated[list[str], Body(embed=True)]
) -> dict[str, list[str]]:
    """Put a document into these collections; nothing is embedded again."""
    return {"collections": runtime.collections.set(document_id, collections)}


@router.post("/{document_id}/retry", status_code=202)
def retry(document_id: str, runtime: RuntimeDep) -> DocumentOut:
    """Read a failed document again."""
    runtime.documents.retry(document_id)
    return _described(runtime.documents.get(document_id))


@router.post("/{document_id}/cancel", status_code=202)
def cancel(document_id: str, runtime: RuntimeDep) -> DocumentOut:
    """Stop reading a document; a version in force stays."""
    runtime.documents.cancel(document_id)
    return _described(runtime.documents.get(document_id))


@router.delete("/{document_id}", status_code=204)
def delete(document_id: str, runtime: RuntimeDep) -> None:
    """Delete a document in whatever state it is."""
    runtime.documents.delete(document_id)


@search_router.get("")
def search(
    q: str,
    runtime: RuntimeDep,
    collection: str | None = None,
    mode: str | None = None,
    count: Annotated[int, Query(ge=1, le=50)] = 5,
) -> dict[str, Any]:
    """The best chunks for a question, with what their scores are made of and how much was looked at."""
    if mode is not None and mode not in MODES:
        raise InvalidInputError(f"mode takes one of {', '.join(MODES)}.", param="mode")
    found = runtime.retriever.find(q, collection, mode=mode, source="api")
    hits = runtime.retriever.hits(found, count)
    return {
        "mode": found.mode,
        "visited": found.visited,
        "total": found.total,
        "seconds": found.seconds,
        "data": [
            {
                "chunk_id": hit.chunk_id, "document_id": hit.document_id, "document": hit.document,
                "position": hit.position, "score": hit.score, "cosine": hit.parts.cosine,
                "keyword": hit.parts.keyword, "title": hit.parts.title, "hop": hit.parts.hop,
                "edge": asdict(hit.parts.step) if hit.parts.step else None, "text": hit.text,
            }
            for hit in hits
        ],
    }  # fmt: skip
