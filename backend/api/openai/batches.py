"""/v1/batches: make, list, get and cancel; each caller sees their own."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request

from backend.api.bodies import Text
from backend.api.deps import CallerDep, RuntimeDep, json_only
from backend.api.openai.file_schemas import BatchBody, BatchList, BatchObject, batch_object
from backend.api.rooms import Room

router = APIRouter(route_class=Room(8).route_class())

MOST_BATCHES = 100
RETRIES = "x-stainless-retry-count"
"""How OpenAI's clients say how often they have sent a request before."""


@router.post("/batches", summary="Make a batch of the requests in a file.", dependencies=[Depends(json_only)])
def create(
    body: BatchBody,
    request: Request,
    runtime: RuntimeDep,
    caller: CallerDep,
    idempotency_key: Annotated[
        str | None,
        Header(max_length=255, description="A name for this request: sent again with it, it makes no second batch."),
    ] = None,
) -> BatchObject:
    """Returns the batch, which is checked, then run behind everybody who waits.

    A request that OpenAI's client sends again, since it got no answer, gives the batch that it made the first time.
    """
    retries = request.headers.get(RETRIES, "")
    batch = runtime.batches.create(
        caller.tenant, caller.id, endpoint=body.endpoint, input_file_id=body.input_file_id,
        completion_window=body.completion_window, metadata=body.metadata,
        output_seconds=body.output_expires_after.seconds if body.output_expires_after else None,
        request_key=idempotency_key or None, sent_again=retries.isdigit() and int(retries) > 0,
    )  # fmt: skip
    return batch_object(batch)


@router.get("/batches", summary="List the caller's batches.")
def list_batches(
    runtime: RuntimeDep,
    caller: CallerDep,
    after: Text | None = None,
    limit: Annotated[int, Query(ge=1, le=MOST_BATCHES)] = 20,
) -> BatchList:
    """Returns a page of batches, latest first."""
    found = runtime.batches.page(caller.tenant, after=after, limit=limit + 1)
    data = [batch_object(batch) for batch in found[:limit]]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return BatchList(data=data, first_id=first, last_id=last, has_more=len(found) > limit)


@router.get("/batches/{batch_id}", summary="Get one batch.")
def get(batch_id: Text, runtime: RuntimeDep, caller: CallerDep) -> BatchObject:
    """Returns how far it is, and its result files once it has ended."""
    return batch_object(runtime.batches.get(batch_id, caller.tenant))


@router.post("/batches/{batch_id}/cancel", summary="Cancel a batch.")
def cancel(batch_id: Text, runtime: RuntimeDep, caller: CallerDep) -> BatchObject:
    """Returns the batch, which ends soon with what was answered of it in its output file."""
    return batch_object(runtime.batches.cancel(batch_id, caller.tenant))
