"""How somebody is refused: OpenAI's error shape, over HTTP and to a websocket that asks to be opened."""

from __future__ import annotations

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from backend.errors import TenfoldError, error_body


async def refuse(error: TenfoldError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request with an error."""
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": error.message[:120]})
        return
    headers = {"www-authenticate": "Bearer"} if error.status == 401 else None
    await JSONResponse(error_body(error), error.status, headers)(scope, receive, send)
