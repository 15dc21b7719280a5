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


@router.post("", status_code=202, summary="Upload files to be read as documents.")
def upload(
    files: list[UploadFile],
    runtime: RuntimeDep,
    sight: SightDep,
    collection: Annotated[Text, Form()] = DEFAULT_COLLECTION,
) -> Uploaded:
    """Returns what became of each file, also of those in zip archives; they are read in the background.

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


@router.get("", summary="List the documents that the caller sees.")
def list_documents(
    runtime: RuntimeDep,
    sight: SightDep,
    collection: Text | None = None,
    offset: Annotated[int, Query(ge=0, le=MOST)] = 0,
    limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 100,
) -> DocumentList:
    """Returns a page of documents, latest first, with how reading each goes."""
    rows = [_describe(row) for row in runtime.documents.latest(sight, collection, offset=offset, limit=limit)]
    return DocumentList(data=rows, total=runtime.documents.count(sight, collection), offset=offset, limit=limit)


@router.get("/reindex", summary="Tell which documents would be read anew, and what that takes.")
def plan(runtime: RuntimeDep, sight: SightDep) -> PlanView:
    """Returns those that were cut or embedded otherwise than now, with the chunks, seconds and cost of reading them."""
    return PlanView(**asdict(runtime.planner.stale(sight)))


@router.post("/reindex", status_code=202, summary="Read documents anew, as they would be cut and embedded now.")
def reindex(runtime: RuntimeDep, sight: SightDep, body: ReindexBody | None = None) -> Chosen:
    """Returns the documents that are read anew: those named, or those that the plan names."""
    named = body.documents if body is not None else None
    chosen = runtime.planner.stale(sight).documents if named is None else named
    runtime.documents.reread(chosen, sight)
    return Chosen(documents=chosen)


@router.get("/{document_id}", summary="Get a document with its chunks.")
def get(
    document_id: Text,
    runtime: RuntimeDep,
    sight: SightDep,
    version: Annotated[int | None, Query(ge=1, le=MOST)] = None,
    after: Annotated[int, Query(ge=-1, le=MOST, description="Position of the last chunk already seen.")] = -1,
    limit: Annotated[int, Query(ge=1, le=MOST_CHUNKS)] = 200,
) -> DocumentDetail:
    """Returns its state and some chunks of its version in force, or of another; `next` leads on."""
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


@router.get("/{document_id}/versions", summary="List the versions of a document.")
def versions(document_id: Text, runtime: RuntimeDep, sight: SightDep) -> VersionList:
    """Returns every content that it had, latest first."""
    found = runtime.documents.versions(document_id, sight)
    return VersionList(data=[VersionView.model_validate(version, from_attributes=True) for version in found])


@router.get("/{document_id}/versions/{number}/changes", summary="Compare a version of a document with the one before.")
def changes(
    document_id: Text, number: Annotated[int, Path(ge=1, le=MOST)], runtime: RuntimeDep, sight: SightDep
) -> ChangeView:
    """Returns the passages that it added and removed, and how many it kept."""
    return ChangeView(**asdict(runtime.documents.changes(document_id, number, sight)))


@router.put("/{document_id}/collections", summary="Put a document into collections.")
def collect(document_id: Text, runtime: RuntimeDep, sight: SightDep, body: CollectionsBody) -> CollectionNames:
    """Returns those that it is in now: these, and none of the others that are seen; nothing is embedded again."""
    return CollectionNames(collections=runtime.collections.assign(document_id, body.collections, sight))


@router.post("/{document_id}/retry", status_code=202, summary="Read a failed document again.")
def retry(document_id: Text, runtime: RuntimeDep, sight: SightDep) -> DocumentView:
    """Returns the document, whose latest version is read."""
    runtime.documents.retry(document_id, sight)
    return _describe(runtime.documents.get(document_id, sight))


@router.post("/{document_id}/cancel", status_code=202, summary="Stop reading a document.")
def cancel(document_id: Text, runtime: RuntimeDep, sight: SightDep) -> DocumentView:
    """Returns the document; a version in force stays."""
    runtime.documents.cancel(document_id, sight)
    return _describe(runtime.documents.get(document_id, sight))


@router.delete("/{document_id}", status_code=204, summary="Delete a document with all its versions.")
def delete(document_id: Text, runtime: RuntimeDep, sight: SightDep) -> None:
    """Returns nothing; it is deleted in whatever state it is."""
    runtime.documents.delete(document_id, sight)
