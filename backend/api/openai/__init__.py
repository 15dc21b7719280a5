"""The OpenAI-compatible API, an endpoint family a module."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from backend.api.deps import json_only
from backend.api.errors import problems
from backend.api.openai import chat, completions, embeddings, models

router = APIRouter(
    prefix="/v1", tags=["OpenAI-compatible"], responses=problems(404, 415, 429), dependencies=[Depends(json_only)]
)
FAMILIES = (models, chat, completions, embeddings)
for family in FAMILIES:
    router.include_router(family.router)
