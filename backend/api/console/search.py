"""The search over the documents, over HTTP."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query

from backend.api.bodies import Text
from backend.api.console.schemas import Hits, HitView, StepView
from backend.api.deps import CallerDep, RuntimeDep, SightDep
from backend.api.rooms import Room
from backend.errors import InvalidInputError
from backend.knowledge.search import MODES

router = APIRouter(prefix="/api/search", tags=["Documents"], route_class=Room(8).route_class())


@router.get("", summary="Search the documents for a question.")
def search(
    q: Text,
    runtime: RuntimeDep,
    sight: SightDep,
    caller: CallerDep,
    collection: Text | None = None,
    mode: Text | None = None,
    count: Annotated[int, Query(ge=1, le=50)] = 5,
) -> Hits:
    """Returns the best chunks, with what their scores are made of and how much was looked at."""
    if not q.strip():
        raise InvalidInputError("The question is empty.", param="q")
    if mode is not None and mode not in MODES:
        raise InvalidInputError(f"mode takes one of {', '.join(MODES)}.", param="mode")
    found = runtime.retriever.find(q, collection, sight, mode=mode, source="api", key_id=caller.id)
    hits = runtime.retriever.hits(found, count, sight)
    data = [
        HitView(
            chunk_id=hit.chunk_id, document_id=hit.document_id, document=hit.document, position=hit.position,
            score=hit.score, cosine=hit.parts.cosine, keyword=hit.parts.keyword, title=hit.parts.title,
            hop=hit.parts.hop, edge=StepView(**asdict(hit.parts.step)) if hit.parts.step else None, text=hit.text,
        )
        for hit in hits
    ]  # fmt: skip
    return Hits(mode=found.mode, visited=found.visited, total=found.total, seconds=found.seconds, data=data)
