"""Uploaded documents, their versions and collections, over HTTP."""

from __future__ import annotations

import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Form, Path, Query, UploadFile

from backend.api.bodies import Text
from backend.api.console.schemas import (
    ChangeView,
    Chosen,
    ChunkView,
    CollectionNames,
    CollectionsBody,
    DocumentDetail,
    DocumentList,
    DocumentView,
    PlanView,
    RateView,
    Refused,
    ReindexBody,
    Uploaded,
    VersionList,
    VersionView,
)
from backend.api.deps import RuntimeDep, SightDep
from backend.api.rooms import Room
from backend.errors import InvalidInputError, TenfoldError
from backend.knowledge.collections import DEFAULT_COLLECTION
from backend.store.failures import named_failures
from backend.store.tables.documents import Document

router = APIRouter(prefix="/api/documents", tags=["Documents"], route_class=Room(8).route_class())

MOST_ROWS, MOST_CHUNKS = 500, 1000
"""Documents, and chunks of one, that come at once."""
MOST = (1 << 31) - 1
"""Largest number of a version: what every database's integers hold."""


def _describe(document: Document) -> DocumentView:
    return DocumentView.model_validate(document, from_attributes=True)


def _pieces(file: UploadFile) -> Iterator[bytes]:
    while piece := file.file.read(1 << 20):
        yield piece


@router.post("", status_code=202, summary="Upload files")
def upload(
    files: list[UploadFile],
    runtime: RuntimeDep,
    sight: SightDep,
    collection: Annotated[Text, Form()] = DEFAULT_COLLECTION,
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
                    path = pathlib.Path(aside.name)
                    documents, refused = runtime.uploads.upload_archive(name, path, sight, collection)
                out += [_describe(document) for document in documents]
                out += [Refused(name=name, reason=reason) for reason in refused]
            else:
                out.append(_describe(runtime.uploads.upload(name, _pieces(file), sight, collection)))
        except TenfoldError as error:
            errors.append(error)
            out.append(Refused(name=name, reason=error.message))
    if errors and len(errors) == len(files):
        raise errors[0]
    return Uploaded(data=out)


@router.get("", summary="List documents")
def list_documents(
    runtime: RuntimeDep,
    sight: SightDep,
    collection: Text | None = None,
    offset: Annotated[int, Query(ge=0, le=MOST)] = 0,
    limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 100,
) -> DocumentList:
    """Latest first, a page at a time."""
    rows = [_describe(row) for row in runtime.documents.latest(sight, collection, offset=offset, limit=limit)]
    return DocumentList(data=rows, total=runtime.documents.count(sight, collection), offset=offset, limit=limit)


@router.get("/reindex", summary="Plan reading anew")
def plan(runtime: RuntimeDep, sight: SightDep) -> PlanView:
    """Which documents were cut or embedded otherwise than now, and what reading them anew would take."""
    return PlanView(**asdict(runtime.planner.stale(sight)))


@router.post("/reindex", status_code=202, summary="Read documents anew")
def reindex(runtime: RuntimeDep, sight: SightDep, body: ReindexBody | None = None) -> Chosen:
    """Those named, or those that the plan names."""
    named = body.documents if body is not None else None
    chosen = runtime.planner.stale(sight).documents if named is None else named
    runtime.documents.reread(chosen, sight)
    return Chosen(documents=chosen)


@router.get("/{document_id}", summary="Read a document")
def get(
    document_id: Text,
    runtime: RuntimeDep,
    sight: SightDep,
    version: Annotated[int | None, Query(ge=1, le=MOST)] = None,
    after: Annotated[int, Query(ge=-1, le=MOST, description="Position of the last chunk already seen.")] = -1,
    limit: Annotated[int, Query(ge=1, le=MOST_CHUNKS)] = 200,
) -> DocumentDetail:
    """With chunks of its version in force, or of another, some at a time."""
    document = runtime.documents.get(document_id, sight)
    chunks = runtime.documents.chunks(document_id, sight, version, after=after, limit=limit + 1)
    shown = chunks[:limit]
    rate = runtime.reader.rate(document_id)
    return DocumentDetail(
        **_describe(document).model_dump(),
        chunks=[ChunkView.model_validate(chunk, from_attributes=True) for chunk in shown],
        next=shown[-1].position if len(chunks) > limit else None,
        rate=RateView.model_validate(rate, from_attributes=True) if rate else None,
    )


@router.get("/{document_id}/versions", summary="List a document's versions")
def versions(document_id: Text, runtime: RuntimeDep, sight: SightDep) -> VersionList:
    """Latest first."""
    found = runtime.documents.versions(document_id, sight)
    return VersionList(data=[VersionView.model_validate(version, from_attributes=True) for version in found])


@router.get("/{document_id}/versions/{number}/changes", summary="Compare a version with the one before")
def changes(
    document_id: Text, number: Annotated[int, Path(ge=1, le=MOST)], runtime: RuntimeDep, sight: SightDep
) -> ChangeView:
    """What a version's text added and removed."""
    return ChangeView(**asdict(runtime.documents.changes(document_id, number, sight)))


@router.put("/{document_id}/collections", summary="Put a document into collections")
def collect(document_id: Text, runtime: RuntimeDep, sight: SightDep, body: CollectionsBody) -> CollectionNames:
    """Into these and none of the others that are seen; nothing is embedded again."""
    return CollectionNames(collections=runtime.collections.assign(document_id, body.collections, sight))


@router.post("/{document_id}/retry", status_code=202, summary="Read a failed document again")
def retry(document_id: Text, runtime: RuntimeDep, sight: SightDep) -> DocumentView:
    """Its latest version."""
    runtime.documents.retry(document_id, sight)
    return _describe(runtime.documents.get(document_id, sight))


@router.post("/{document_id}/cancel", status_code=202, summary="Stop reading a document")
def cancel(document_id: Text, runtime: RuntimeDep, sight: SightDep) -> DocumentView:
    """A version in force stays."""
    runtime.documents.cancel(document_id, sight)
    return _describe(runtime.documents.get(document_id, sight))


@router.delete("/{document_id}", status_code=204, summary="Delete a document")
def delete(document_id: Text, runtime: RuntimeDep, sight: SightDep) -> None:
    """In whatever state it is."""
    runtime.documents.delete(document_id, sight)
