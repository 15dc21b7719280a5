"""The console's own API, a resource a module."""

from __future__ import annotations

from fastapi import APIRouter

from backend.api.console import collections, documents, jobs, keys, limits, search, switches
from backend.api.errors import problems

router = APIRouter()
RESOURCES = (collections, documents, search, jobs, keys, limits, switches)
for resource in (collections, documents, search):  # collections first: their path looks like a document's
    router.include_router(resource.router, responses=problems(404, 409, 422))
router.include_router(jobs.router, responses=problems(404, 409, 415, 429))
router.include_router(keys.router, responses=problems(404, 415))
router.include_router(limits.router, responses=problems(415))
router.include_router(switches.router, responses=problems())
