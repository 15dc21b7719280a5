"""How somebody is refused: in OpenAI's error shape, in words for an open page, and a websocket before it is opened."""

from __future__ import annotations

from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from backend.access.paths import below
from backend.errors import TenfoldError, error_body


async def refuse(error: TenfoldError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request with an error."""
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": error.message[:120]})
        return
    headers = {"www-authenticate": "Bearer"} if error.status == 401 else None
    response: Response = JSONResponse(error_body(error), error.status, headers)
    if below(scope["path"], "/_stcore"):  # an open page asks this, and shows what it is told
        response = PlainTextResponse(error.message, error.status, headers)
    await response(scope, receive, send)
