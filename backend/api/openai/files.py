"""/v1/files: upload, list, get, read and delete; each caller sees their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import APIRouter, Form, Query, UploadFile
from fastapi.responses import StreamingResponse

from backend.api.bodies import Text
from backend.api.deps import CallerDep, RuntimeDep
from backend.api.openai.file_schemas import (
    LEAST_KEPT,
    MOST_KEPT,
    FileDeleted,
    FileList,
    FileObject,
    Purpose,
    file_object,
)
from backend.api.rooms import Room
from backend.errors import InvalidInputError

room = Room(8)
router = APIRouter(route_class=room.route_class())

PIECE = 1 << 20
"""Bytes that are read at once."""
MOST_FILES = 10_000
BYTES = "application/octet-stream"


def _pieces(file: UploadFile) -> Iterator[bytes]:
    while piece := file.file.read(PIECE):
        yield piece


@router.post("/files", summary="Upload a file.")
def upload(
    file: UploadFile,
    purpose: Annotated[Purpose, Form()],
    runtime: RuntimeDep,
    caller: CallerDep,
    anchor: Annotated[Literal["created_at"] | None, Form(alias="expires_after[anchor]")] = None,
    seconds: Annotated[int | None, Form(alias="expires_after[seconds]", ge=LEAST_KEPT, le=MOST_KEPT)] = None,
) -> FileObject:
    """Returns the file; one for a batch expires after 30 days unless `expires_after` says otherwise."""
    if (anchor is None) != (seconds is None):
        raise InvalidInputError("expires_after needs both its anchor and its seconds.", param="expires_after")
    kept = runtime.files.upload(
        file.filename or "", _pieces(file), tenant=caller.tenant, purpose=purpose, seconds=seconds
    )
    return file_object(kept)


@router.get("/files", summary="List the caller's files.")
def list_files(
    runtime: RuntimeDep,
    caller: CallerDep,
    after: Text | None = None,
    limit: Annotated[int, Query(ge=1, le=MOST_FILES)] = MOST_FILES,
    order: Literal["asc", "desc"] = "desc",
    purpose: Text | None = None,
) -> FileList:
    """Returns a page of files, latest first unless `order` says otherwise."""
    found = runtime.files.page(
        caller.tenant, after=after, limit=limit + 1, purpose=purpose, oldest_first=order == "asc"
    )
    data = [file_object(file) for file in found[:limit]]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return FileList(data=data, first_id=first, last_id=last, has_more=len(found) > limit)


@router.get("/files/{file_id}", summary="Describe one file.")
def get(file_id: Text, runtime: RuntimeDep, caller: CallerDep) -> FileObject:
    """Returns its name, size and purpose, and when it expires."""
    return file_object(runtime.files.get(file_id, caller.tenant))


@router.delete("/files/{file_id}", summary="Delete a file.")
def delete(file_id: Text, runtime: RuntimeDep, caller: CallerDep) -> FileDeleted:
    """Returns that it is gone; a batch that reads it goes on."""
    runtime.files.delete(file_id, caller.tenant)
    return FileDeleted(id=file_id)


@router.get(
    "/files/{file_id}/content", summary="Read what is in a file.", response_class=StreamingResponse,
    responses={200: {
        "description": "Its bytes.", "content": {BYTES: {"schema": {"type": "string", "format": "binary"}}},
    }},
)  # fmt: skip
async def content(file_id: Text, runtime: RuntimeDep, caller: CallerDep) -> StreamingResponse:
    """Returns its bytes as they were sent or written."""
    file = await room.run(lambda: runtime.files.get(file_id, caller.tenant))
    stream = await room.run(lambda: runtime.files.open(file))

    async def pieces() -> AsyncIterator[bytes]:
        try:
            while piece := await room.run(lambda: stream.read(PIECE)):
                yield piece
        finally:
            stream.close()

    named = f"attachment; filename*=UTF-8''{quote(file.name)}"
    headers = {"content-disposition": named, "content-length": str(file.size)}
    return StreamingResponse(pieces(), media_type=BYTES, headers=headers)
