"""The gate in front of the API: sends API paths to FastAPI and everything else to the console, and refuses strangers.

A web page elsewhere can make the user's browser send requests to this server. So a foreign Origin, and on loopback a
Host that is not this machine's (DNS rebinding), are refused; opened to a network, every call needs a key.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.api.errors import error_body
from backend.errors import ForbiddenError, TenfoldError, TooLargeError, UnauthorizedError

if TYPE_CHECKING:
    from backend.runtime import Runtime

PREFIXES = ("/v1", "/api", "/healthz", "/metrics")
OPEN = ("/healthz",)
BODY_LIMIT = 10 << 20
"""Bytes of a request other than an upload."""


def is_loopback(address: str | None) -> bool:
    """Whether a bind address or host name can only be reached from this machine."""
    if address in (None, ""):
        return False  # no address binds every interface
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(str(address).strip("[]")).is_loopback
    except ValueError:
        return False


def owns(path: str) -> bool:
    """Whether a path belongs to the API rather than the console."""
    return any(path == prefix or path.startswith(prefix + "/") for prefix in PREFIXES)


class Gate:
    """ASGI middleware around the console.

    Args:
        app: the console.
        api: FastAPI, for the paths in PREFIXES.
        runtime: called per request; the runtime exists once the lifespan has begun.
        bind_address: called per request; what the server listens on.
    """

    def __init__(
        self, app: ASGIApp, api: ASGIApp, runtime: Callable[[], Runtime], bind_address: Callable[[], str | None]
    ) -> None:
        self._app, self._api, self._runtime, self._bind = app, api, runtime, bind_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Route, check, limit."""
        if scope["type"] != "http" or not owns(scope["path"]):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            origin = self._check_origin(headers)
            if scope["method"] == "OPTIONS" and origin:
                await _respond(send, 204, b"", _cors(origin))
                return
            self._check_key(scope, headers)
            limit = self._limit(scope["path"], headers)
        except TenfoldError as error:
            extra = [(b"www-authenticate", b"Bearer")] if error.status == 401 else []
            await _respond(send, error.status, json.dumps(error_body(error)).encode(), extra)
            return
        started = False

        async def tagged(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if origin:
                    message["headers"] = [*message["headers"], *_cors(origin)]
            await send(message)

        try:
            await self._api(scope, _limited(receive, limit), tagged)
        except _OverLimitError:
            if not started:
                too_large = _too_large(limit, limit != BODY_LIMIT)
                await _respond(send, 413, json.dumps(error_body(too_large)).encode(), [])

    def _check_origin(self, headers: Headers) -> str | None:
        """Refuse foreign hosts and origins; returns the origin if it is an allowed foreign one."""
        settings = self._runtime().settings
        host = headers.get("host", "")
        name = urlsplit(f"//{host}").hostname or ""
        if is_loopback(self._bind()) and not is_loopback(name) and name not in settings.allowed_hosts:
            raise ForbiddenError(
                f"The host {name!r} is not served here. Add it to TENFOLD_ALLOWED_HOSTS if it is yours.",
                code="forbidden_host",
            )
        origin = headers.get("origin")
        if origin is None:
            if headers.get("sec-fetch-site") == "cross-site":
                raise ForbiddenError("Requests from other web sites are refused.")
            return None
        if origin in settings.allowed_origins:
            return origin
        if origin == "null" or urlsplit(origin).netloc != host:
            raise ForbiddenError(
                f"Requests from {origin} are refused. Add it to TENFOLD_ALLOWED_ORIGINS to allow that site."
            )
        return None

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        scope.setdefault("state", {})
        scope["state"]["salt"] = ""
        scheme, _, key = headers.get("authorization", "").partition(" ")
        # On loopback a key is not asked for, but one that is given still keeps its owner's cache apart.
        row = self._runtime().keys.check(key.strip()) if scheme.lower() == "bearer" and key else None
        if row is not None:
            scope["state"]["salt"] = row.id
        elif not is_loopback(self._bind()) and scope["path"] not in OPEN:
            raise UnauthorizedError(
                "A valid API key is required: Authorization: Bearer tf-… Create one on the console's API page."
            )

    def _limit(self, path: str, headers: Headers) -> int:
        upload = path.startswith("/api/documents")
        limit = (self._runtime().settings.max_upload_mb + 1) << 20 if upload else BODY_LIMIT
        declared = headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > limit:
            raise _too_large(limit, upload)
        return limit


def _too_large(limit: int, upload: bool) -> TooLargeError:
    hint = " Upload large files one at a time." if upload else ""
    return TooLargeError(f"The request is larger than {limit >> 20} MB, the most that is accepted at once.{hint}")


class _OverLimitError(Exception):
    pass


def _limited(receive: Receive, limit: int) -> Receive:
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > limit:
                raise _OverLimitError
        return message

    return limited


def _cors(origin: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"access-control-allow-origin", origin.encode()),
        (b"access-control-allow-methods", b"GET, POST, PATCH, DELETE, OPTIONS"),
        (b"access-control-allow-headers", b"authorization, content-type"),
        (b"vary", b"origin"),
    ]


async def _respond(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", b"application/json"), *headers],
        }
    )
    await send({"type": "http.response.body", "body": body})
