"""/v1/webhook_endpoints: the addresses that are told how batches end; each caller has their own."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from backend.api.bodies import Text
from backend.api.deps import CallerDep, RuntimeDep, json_only
from backend.api.openai.file_schemas import (
    WebhookBody,
    WebhookDeleted,
    WebhookList,
    WebhookObject,
    WebhookWithSecret,
    webhook_object,
)
from backend.api.rooms import Room

router = APIRouter(route_class=Room(4).route_class())

MOST_SHOWN = 100


@router.post(
    "/webhook_endpoints", summary="Have an address told how batches end.", dependencies=[Depends(json_only)]
)
def create(body: WebhookBody, runtime: RuntimeDep, caller: CallerDep) -> WebhookWithSecret:
    """Returns the address with the secret that its events are signed with, which is not shown again.

    Only addresses whose origin is named in TENFOLD_WEBHOOK_ORIGINS are taken; none is unless it is set.
    """
    endpoint = runtime.webhooks.create(
        caller.tenant, name=body.name, url=body.url, event_types=list(body.event_types)
    )
    return WebhookWithSecret(**webhook_object(endpoint).model_dump(), signing_secret=endpoint.secret)


@router.get("/webhook_endpoints", summary="List the caller's webhook endpoints.")
def list_endpoints(
    runtime: RuntimeDep,
    caller: CallerDep,
    after: Text | None = None,
    limit: Annotated[int, Query(ge=1, le=MOST_SHOWN)] = 20,
) -> WebhookList:
    """Returns a page of them, latest first."""
    found = runtime.webhooks.page(caller.tenant, after=after, limit=limit + 1)
    data = [webhook_object(endpoint) for endpoint in found[:limit]]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return WebhookList(data=data, first_id=first, last_id=last, has_more=len(found) > limit)


@router.get("/webhook_endpoints/{endpoint_id}", summary="Get one webhook endpoint.")
def get(endpoint_id: Text, runtime: RuntimeDep, caller: CallerDep) -> WebhookObject:
    """Returns its address and what it is told of."""
    return webhook_object(runtime.webhooks.get(endpoint_id, caller.tenant))


@router.delete("/webhook_endpoints/{endpoint_id}", summary="Delete a webhook endpoint.")
def delete(endpoint_id: Text, runtime: RuntimeDep, caller: CallerDep) -> WebhookDeleted:
    """Returns that it is forgotten; it is told nothing more."""
    runtime.webhooks.delete(endpoint_id, caller.tenant)
    return WebhookDeleted(id=endpoint_id)
