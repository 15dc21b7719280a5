"""What routes are given: the runtime of the app they belong to, and who calls."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from backend.access.caller import STRANGER, Caller
from backend.runtime import Runtime


async def runtime_of(request: Request) -> Runtime:
    """The runtime that serves this request."""
    runtime: Runtime = request.app.state.runtime()
    return runtime


async def caller_of(request: Request) -> Caller:
    """Who the gate found to be calling; a stranger on the few routes that are open to all."""
    caller: Caller | None = request.scope.get("state", {}).get("caller")
    return caller or STRANGER


CallerDep = Annotated[Caller, Depends(caller_of)]
