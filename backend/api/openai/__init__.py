"""The OpenAI-compatible API, an endpoint family a module."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from backend.api.deps import json_only
from backend.api.errors import problems
from backend.api.openai import batches, chat, completions, embeddings, files, models, webhooks

router = APIRouter(
    prefix="/v1", tags=["OpenAI-compatible"], responses=problems(404, 415, 429), dependencies=[Depends(json_only)]
)
FAMILIES = (models, chat, completions, embeddings)
for family in FAMILIES:
    router.include_router(family.router)
router_of_files = APIRouter(prefix="/v1", tags=["Files and batches"])
router_of_files.include_router(files.router, responses=problems(404))
router_of_files.include_router(batches.router, responses=problems(404, 409, 415))
router_of_files.include_router(webhooks.router, responses=problems(404, 415))
