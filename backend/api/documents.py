"""Uploaded documents, their versions and collections, and the search over them, over HTTP."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Form, Query, UploadFile
from fastapi.responses import JSONResponse

from backend.api.dependencies import runtime_of
from backend.api.rooms import Room
from backend.errors import InvalidInputError, TenfoldError
from backend.knowledge.documents import DEFAULT_COLLECTION
from backend.knowledge.search import MODES
from backend.runtime import Runtime
from backend.store.tables import Document

router = APIRouter(prefix="/api/documents", tags=["Documents"], route_class=Room(8).route_class())
search_router = APIRouter(prefix="/api/search", tags=["Documents"], route_class=Room(8).route_class())
RuntimeDep = Annotated[Runtime, Depends(runtime_of)]

FIELDS = (
    "id", "name", "sha256", "size", "state", "reason", "progress", "chunk_count", "embedded", "reused", "seconds",
    "version", "latest", "created",
)  # fmt: skip


def _describe(document: Document) -> dict[str, Any]:
    return {name: getattr(document, name) for name in FIELDS}


def _pieces(file: UploadFile) -> Iterator[bytes]:
    while piece := file.file.read(1 << 20):
        yield piece


@router.post("", status_code=202)
def upload(
    files: list[UploadFile], runtime: RuntimeDep, collection: Annotated[str, Form()] = DEFAULT_COLLECTION
) -> JSONResponse:
    """Take files (and zip archives of files) in; each is read in the background.

    Those refused at once come back as failed. A changed file of a known name is a new version of its document.
    """
    if not files:
        raise InvalidInputError("No file was sent; use the multipart field 'files'.", param="files")
    out: list[dict[str, Any]] = []
    errors: list[TenfoldError] = []
    for file in files:
        name = file.filename or ""
        try:
            if name.lower().endswith(".zip"):
                with tempfile.NamedTemporaryFile(suffix=".zip") as aside:
                    shutil.copyfileobj(file.file, aside)
                    aside.flush()
                    documents, refused = runtime.documents.upload_archive(name, Path(aside.name), collection)
                out += [_describe(document) for document in documents]
                out += [{"name": name, "state": "failed", "reason": reason} for reason in refused]
            else:
                out.append(_describe(runtime.documents.upload(name, _pieces(file), collection)))
        except TenfoldError as error:
            errors.append(error)
            out.append({"name": file.filename, "state": "failed", "reason": error.message})
    if errors and len(errors) == len(files):
        raise errors[0]
    return JSONResponse({"data": out}, status_code=202)


@router.get("")
def find(runtime: RuntimeDep, collection: str | None = None) -> dict[str, Any]:
    """All documents, latest first."""
    return {"data": [_describe(document) for document in runtime.documents.find(collection)]}


@router.get("/reindex")
def plan(runtime: RuntimeDep) -> dict[str, Any]:
    """Which documents were cut or embedded otherwise than now, and what reading them anew would take."""
    return asdict(runtime.ingest.plan())


@router.post("/reindex", status_code=202)
def reindex(runtime: RuntimeDep, documents: Annotated[list[str] | None, Body(embed=True)] = None) -> dict[str, Any]:
    """Read documents anew: those named, or those that the plan names."""
    chosen = runtime.ingest.plan().documents if documents is None else documents
    runtime.documents.reread(chosen)
    return {"documents": chosen}


@router.get("/{document_id}")
def get(document_id: str, runtime: RuntimeDep, version: int | None = None) -> dict[str, Any]:
    """One document with the chunks of its version in force, or of another."""
    document = runtime.documents.get(document_id)
    chunks = [
        {"id": chunk.id, "position": chunk.position, "tokens": chunk.tokens, "text": chunk.text}
        for chunk in runtime.documents.chunks(document_id, version)
    ]
    rate = runtime.ingest.rate(document_id)
    return _describe(document) | {"chunks": chunks, "rate": asdict(rate) if rate else None}


@router.get("/{document_id}/versions")
def versions(document_id: str, runtime: RuntimeDep) -> dict[str, Any]:
    """The versions of a document, latest first."""
    runtime.documents.get(document_id)
    return {"data": [version.model_dump() for version in runtime.documents.versions(document_id)]}


@router.get("/{document_id}/versions/{number}/changes")
def changes(document_id: str, number: int, runtime: RuntimeDep) -> dict[str, Any]:
    """What a version's text added and removed."""
    return asdict(runtime.documents.changes(document_id, number))


@router.put("/{document_id}/collections")
def collect(
    document_id: str, runtime: RuntimeDep, collections: Annotated[list[str], Body(embed=True)]
) -> dict[str, Any]:
    """Put a document into these collections; nothing is embedded again."""
    runtime.documents.set_collections(document_id, collections)
    return {"collections": sorted(set(collections))}


@router.post("/{document_id}/retry", status_code=202)
def retry(document_id: str, runtime: RuntimeDep) -> dict[str, Any]:
    """Read a failed document again."""
    runtime.documents.retry(document_id)
    return _describe(runtime.documents.get(document_id))


@router.post("/{document_id}/cancel", status_code=202)
def cancel(document_id: str, runtime: RuntimeDep) -> dict[str, Any]:
    """Stop reading a document; a version in force stays."""
    runtime.documents.cancel(document_id)
    return _describe(runtime.documents.get(document_id))


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
