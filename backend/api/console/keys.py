"""Keys over HTTP, for administrators: which there are, making one, ending one."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from backend.access.caller import Role
from backend.access.keys import digest
from backend.api.bodies import Body, Text
from backend.api.console.limits import LimitsBody, LimitsView, limits_view
from backend.api.deps import RuntimeDep, json_only
from backend.api.rooms import Room
from backend.errors import InvalidInputError, NotFoundError
from backend.runtime import Runtime
from backend.store.tables.access import ApiKey

router = APIRouter(prefix="/api/keys", tags=["Keys"], route_class=Room(4).route_class())


class KeyBody(Body):
    """A key to make."""

    name: str = Field(description="What it is for: what it will be known by when it is revoked.")
    role: Literal["admin", "user", "read_only"] = Field(
        "user", description="admin may do everything, user may use the model and documents, read_only may look."
    )
    owner: str | None = Field(
        None, description="Id of a key whose chats and private collections this one is to see; else it has its own."
    )


class KeyView(BaseModel):
    """A key as it can still be shown: its beginning, what it may and may use, and when it was made and last used."""

    id: str
    name: str
    prefix: str
    role: Role
    created: float
    used: float | None
    limits: LimitsView


class KeyMade(KeyView):
    """A new key; `key` is the secret itself, which is told this once."""

    key: str


class KeyList(BaseModel):
    """Every key that works, latest first."""

    data: list[KeyView]


def _view(runtime: Runtime, row: ApiKey) -> KeyView:
    return KeyView(
        id=row.id, name=row.name, prefix=row.prefix, role=Role(row.role), created=row.created, used=row.used,
        limits=limits_view(row.limits, runtime.budgets.spent(row.id)),
    )  # fmt: skip


@router.get("", summary="List the keys of this server.")
def find(runtime: RuntimeDep) -> KeyList:
    """Returns every key that works, latest first, without the secrets."""
    return KeyList(data=[_view(runtime, row) for row in runtime.access.keys.latest()])


@router.post("", status_code=201, summary="Make a key.", dependencies=[Depends(json_only)])
def create(body: KeyBody, runtime: RuntimeDep) -> KeyMade:
    """Returns the key with its secret, which is stored as a hash only and cannot be told again."""
    if not body.name.strip():
        raise InvalidInputError("Give the key a name.", param="name")
    tenant = None if body.owner is None else _row(runtime, body.owner).tenant
    secret = runtime.access.keys.create(body.name, Role(body.role), tenant)
    made = next(row for row in runtime.access.keys.latest() if row.digest == digest(secret))
    return KeyMade(**_view(runtime, made).model_dump(), key=secret)


@router.patch("/{key_id}", summary="Change what a key may use.", dependencies=[Depends(json_only)])
def limit(key_id: Text, body: LimitsBody, runtime: RuntimeDep) -> KeyView:
    """Returns the key with its new limits, which hold from its next request on."""
    return _view(runtime, runtime.access.keys.limit(key_id, **body.changes()))


@router.delete("/{key_id}", status_code=204, summary="Revoke a key.")
def revoke(key_id: Text, runtime: RuntimeDep) -> None:
    """Returns nothing; calls, sign-ins and pages that the key opened end at once."""
    runtime.access.keys.revoke(key_id)


def _row(runtime: Runtime, key_id: str) -> ApiKey:
    found = next((row for row in runtime.access.keys.latest() if row.id == key_id), None)
    if found is None:
        raise NotFoundError("There is no key of this id.")
    return found
