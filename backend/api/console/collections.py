"""Collections of documents over HTTP: which there are, and whose they are."""

from __future__ import annotations

from fastapi import APIRouter

from backend.api.bodies import Text
from backend.api.console.schemas import CollectionBody, CollectionList, CollectionView
from backend.api.deps import RuntimeDep, SightDep
from backend.api.rooms import Room

router = APIRouter(prefix="/api/documents/collections", tags=["Documents"], route_class=Room(8).route_class())


@router.get("", summary="List the collections that the caller sees.")
def list_collections(runtime: RuntimeDep, sight: SightDep) -> CollectionList:
    """Returns everybody's and the caller's own; an administrator sees all."""
    listed = runtime.collections.listed(sight)
    return CollectionList(data=[CollectionView.model_validate(row, from_attributes=True) for row in listed])


@router.put("/{name:path}", summary="Make a collection, or say whose it is.")
def define(name: Text, body: CollectionBody, runtime: RuntimeDep, sight: SightDep) -> CollectionView:
    """Returns the collection.

    A private one is seen by keys of the caller's owner and by administrators; its documents elsewhere stay seen.

    One that everybody sees and that has documents is made private by an administrator only.
    """
    made = runtime.collections.define(name, sight, private=body.private)
    return CollectionView.model_validate(made, from_attributes=True)


@router.delete("/{name:path}", status_code=204, summary="Delete an empty collection.")
def delete(name: Text, runtime: RuntimeDep, sight: SightDep) -> None:
    """Returns nothing; one with documents is refused."""
    runtime.collections.delete(name, sight)
