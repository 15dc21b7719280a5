"""The console's own API, a resource a module."""

from __future__ import annotations

from fastapi import APIRouter

from backend.api.console import documents, jobs, search, switches
from backend.api.errors import problems

router = APIRouter()
RESOURCES = (documents, search, jobs, switches)
for resource in (documents, search):
    router.include_router(resource.router, responses=problems(404, 409, 422))
router.include_router(jobs.router, responses=problems(404, 409, 415))
router.include_router(switches.router, responses=problems())
