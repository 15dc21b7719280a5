"""Headers on every answer: an id for the request, and what a browser may do with a page of ours."""

from __future__ import annotations

import base64
import hashlib
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""What a client may name its request."""


def content_policy(page: str) -> str:
    """The console's content security policy: nothing of anybody else's is loaded or run.

    Args:
        page: the console's HTML; the scripts that stand in it are named by their hashes.
    """
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.S)
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts]
    return "; ".join(
        [
            "default-src 'self'",
            " ".join(["script-src 'self' 'wasm-unsafe-eval' blob:", *hashes]),
            "style-src 'self' 'unsafe-inline'",  # the console's widgets style themselves
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "media-src 'self' data: blob:",
            "connect-src 'self' data: blob:",
            "worker-src 'self' blob:",
            "frame-src 'self' data: blob:",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
            "frame-ancestors 'self'",
        ]
    )


class ResponseHeaders:
    """ASGI middleware that adds them. An answer's own policy stays.

    Args:
        app: what is behind it.
        policy: the content security policy of answers that have none.
    """

    def __init__(self, app: ASGIApp, policy: str) -> None:
        self._app = app
        self._headers = {
            "content-security-policy": policy,
            "x-content-type-options": "nosniff",
            "referrer-policy": "same-origin",
            "x-frame-options": "SAMEORIGIN",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Name the request, and complete the answer's headers."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        named_by_client = REQUEST_ID.fullmatch(given) is not None
        request_id = given if named_by_client else uuid.uuid4().hex
        scope.setdefault("state", {}).update(request_id=request_id, named_by_client=named_by_client)

        async def completed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, completed)
