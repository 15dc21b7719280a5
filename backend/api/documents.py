"""Uploaded documents over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, UploadFile
from fastapi.responses import JSONResponse

from backend.api.dependencies import runtime_of
from backend.errors import InvalidInputError, TenfoldError
from backend.knowledge.documents import DEFAULT_COLLECTION
from backend.runtime import Runtime
from backend.store.tables import Document

router = APIRouter(prefix="/api/documents", tags=["Documents"])
RuntimeDep = Annotated[Runtime, Depends(runtime_of)]


def _describe(document: Document) -> dict[str, Any]:
    fields = ("id", "name", "sha256", "size", "state", "reason", "progress", "chunk_count", "embedded", "reused")
    return {name: getattr(document, name) for name in fields} | {"created": document.created}


@router.post("", status_code=202)
def upload(
    files: list[UploadFile], runtime: RuntimeDep, collection: Annotated[str, Form()] = DEFAULT_COLLECTION
) -> JSONResponse:
    """Take several files in; each is read in the background. Those refused at once come back as failed."""
    if not files:
        raise InvalidInputError("No file was sent; use the multipart field 'files'.", param="files")

    def pieces(file: UploadFile) -> Iterator[bytes]:
        while piece := file.file.read(1 << 20):
            yield piece

    out: list[dict[str, Any]] = []
    errors: list[TenfoldError] = []
    for file in files:
        try:
            out.append(_describe(runtime.documents.upload(file.filename or "", pieces(file), collection)))
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


@router.get("/{document_id}")
def get(document_id: str, runtime: RuntimeDep) -> dict[str, Any]:
    """One document with its chunks."""
    document = runtime.documents.get(document_id)
    chunks = [
        {"id": chunk.id, "position": chunk.position, "tokens": chunk.tokens, "text": chunk.text}
        for chunk in runtime.documents.chunks(document_id)
    ]
    return _describe(document) | {"chunks": chunks}


@router.post("/{document_id}/retry", status_code=202)
def retry(document_id: str, runtime: RuntimeDep) -> dict[str, Any]:
    """Read a failed document again."""
    runtime.documents.retry(document_id)
    return _describe(runtime.documents.get(document_id))


@router.delete("/{document_id}", status_code=204)
def delete(document_id: str, runtime: RuntimeDep) -> None:
    """Delete a document in whatever state it is."""
    runtime.documents.delete(document_id)
