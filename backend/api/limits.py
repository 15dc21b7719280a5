"""How large a request may be. The counting is Starlette's; here are the limits, and the answer's shape."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from backend.access.paths import below
from backend.access.refusal import refuse
from backend.errors import TooLargeError

BODY_LIMIT = 10 << 20
"""Bytes of a request other than an upload."""
FORM_BYTES = 1 << 20
"""What a form's other fields and boundaries may add to an uploaded file."""


class BodyLimits:
    """ASGI middleware of the API: 413 for a body over the limit, whether or not it says its length.

    Args:
        app: what is behind it.
        uploads: of the largest file accepted at and below a path, in bytes.
    """

    def __init__(self, app: ASGIApp, uploads: Mapping[str, int]) -> None:
        self._app, self._uploads = app, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Bound one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sizes = (size for path, size in self._uploads.items() if below(scope["path"], path))
        upload = next(sizes, None)
        limit = BODY_LIMIT if upload is None else upload + FORM_BYTES
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            await refuse(too_large(limit), scope, receive, send)
            return
        await RequestBodyLimitMiddleware(self._app, limit)(scope, receive, send)


def too_large(limit: int) -> TooLargeError:
    """The refusal of a body over a limit in bytes."""
    hint = " Upload large files one at a time." if limit != BODY_LIMIT else ""
    return TooLargeError(f"The request is larger than {limit >> 20} MB, the most that is accepted at once.{hint}")
