"""What routes are given: the runtime of the app they belong to."""

from __future__ import annotations

from fastapi import Request

from backend.runtime import Runtime


async def runtime_of(request: Request) -> Runtime:
    """The runtime that serves this request."""
    runtime: Runtime = request.app.state.runtime()
    return runtime
