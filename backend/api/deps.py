"""What routes are given: the runtime, the caller and what it sees, and bodies that say they are JSON."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from backend.access.caller import STRANGER, Caller
from backend.errors import UnsupportedMediaTypeError
from backend.knowledge.sight import Sight, sight_of
from backend.runtime import Runtime
from backend.store.ids import new_id

MOST_NAME = 100
"""Characters of a client's name for a request that are kept."""


async def runtime_of(request: Request) -> Runtime:
    """The runtime that serves this request."""
    runtime: Runtime = request.app.state.runtime()
    return runtime


async def caller_of(request: Request) -> Caller:
    """Who the gate found to be calling; a stranger on the few routes that are open to all."""
    caller: Caller | None = request.scope.get("state", {}).get("caller")
    return caller or STRANGER


async def sight_of_caller(request: Request) -> Sight:
    """What of the collections whoever calls sees."""
    return sight_of(await caller_of(request))


async def name_of(request: Request) -> str:
    """What a request is called in the ledger, in the log and in the console: as the header x-request-id of its answer.

    A client may give the same name twice; here each is one of a kind, and begins with what was given.
    """
    state = request.scope.get("state", {})
    named: str = state.get("request_id") or new_id()
    return f"{named[:MOST_NAME]}-{new_id()[:8]}" if state.get("named_by_client") else named


async def within_limits(runtime: RuntimeDep, caller: CallerDep) -> None:
    """Count a request that is about to use a model against the budgets and rates of its key and of all together.

    Raises:
        BudgetError: no money is left.
        RateError: too many came in the last minute.
    """
    runtime.budgets.take(caller.id)


async def json_only(request: Request) -> None:
    """Refuse a body that does not say it is JSON.

    Raises:
        UnsupportedMediaTypeError: names the header to send.
    """
    if request.method not in ("POST", "PUT", "PATCH"):
        return
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMediaTypeError("Send the body as JSON, with the header content-type: application/json.")


NameDep = Annotated[str, Depends(name_of)]
RuntimeDep = Annotated[Runtime, Depends(runtime_of)]
CallerDep = Annotated[Caller, Depends(caller_of)]
SightDep = Annotated[Sight, Depends(sight_of_caller)]
