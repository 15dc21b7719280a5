"""The gate before every path: who calls is found out, strangers are refused, programs get the API, people the console.

Keys come from programs, cookies from people who signed in. Where keys are required, nothing but the sign-in form and
whether the server works is shown without one, and a websocket ends with the key or sign-in that opened it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.access.access import Access
from backend.access.caller import CALLER_HEADER, LOCAL, Caller, caller_to_header
from backend.access.hosts import same_origin
from backend.access.keys import PREFIX
from backend.access.paths import OPEN, is_machine_path
from backend.access.refusal import refuse
from backend.access.roles import READING, least_role
from backend.access.sign_in import COOKIE, SIGN_IN, SIGN_OUT, SignIn, form
from backend.errors import TenfoldError, UnauthorizedError

KEY_NEEDED = (
    "A valid API key is required: Authorization: Bearer tf-… (revoked keys and those of other servers are not). "
    "Create one on the console's API page."
)
SIGN_IN_NEEDED = "You are signed out. Load this page again to sign in."


@dataclass(frozen=True)
class Entry:
    """How a caller was let in: by which credentials, and until when (seconds since the epoch; None: no end)."""

    caller: Caller
    credentials: tuple[str, ...] = ()
    expires: float | None = None


class Gate:
    """ASGI middleware around the console.

    Args:
        app: the console.
        api: what answers the paths of programs.
        access: called per request; it exists once the lifespan has begun.
    """

    def __init__(self, app: ASGIApp, api: ASGIApp, access: Callable[[], Access]) -> None:
        self._app, self._api, self._access = app, api, access
        self._sign_in = SignIn(access)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Identify, check, pass on."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        path, headers = scope["path"], Headers(scope=scope)
        if scope["type"] == "http" and path in (SIGN_IN, SIGN_OUT):
            await self._sign_in.app(scope, receive, send)
            return
        try:
            access = self._access()
            entry = identify(access, scope, headers)
            if entry is None and not _open_to_all(scope, headers):
                if _wants_a_page(scope, headers):
                    again = headers.get("sec-fetch-site") == "cross-site"
                    await form(_address(scope), again=again)(scope, receive, send)
                    return
                raise UnauthorizedError(KEY_NEEDED if is_machine_path(path) else SIGN_IN_NEEDED)
            if entry is not None and scope["type"] == "http" and path not in OPEN:
                entry.caller.require(least_role(scope["method"], path))
        except TenfoldError as error:
            await refuse(error, scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["caller"] = entry.caller if entry else None
        if is_machine_path(path) and scope["type"] == "http":
            await self._api(scope, receive, send)
            return
        assert entry is not None, "only machine paths are open to all"
        _name_caller(scope, entry.caller)
        if scope["type"] == "http":
            await self._app(scope, receive, send)
        else:
            await self._hold(access, entry, scope, receive, send)

    async def _hold(self, access: Access, entry: Entry, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a websocket until it ends or what let it in does."""
        left_by_client = False

        async def hear() -> Message:
            nonlocal left_by_client
            message = await receive()
            left_by_client = left_by_client or message["type"] == "websocket.disconnect"
            return message

        with access.sockets.opened(*entry.credentials) as ended:
            left = None if entry.expires is None else max(0.0, entry.expires - time.time())
            served = asyncio.ensure_future(self._app(scope, hear, send))
            watch = asyncio.ensure_future(ended.wait())
            try:
                await asyncio.wait({served, watch}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            finally:
                watch.cancel()
                finished = served.done()
                if not finished:
                    served.cancel()
                    with suppress(asyncio.CancelledError):
                        await served
            if finished:
                error = served.exception()
                if error is not None and not left_by_client:  # a page that was left is nobody's error
                    raise error
            else:
                with suppress(Exception):  # the browser may have gone meanwhile
                    await send({"type": "websocket.close", "code": 1008, "reason": "Signed out."})


def identify(access: Access, scope: Scope, headers: Headers) -> Entry | None:
    """Who calls, by a key or by the cookie of a sign-in; None for a stranger where keys are required, and for a key of
    ours that is not valid (any more) wherever it is shown.
    """
    scheme, _, key = headers.get("authorization", "").partition(" ")
    is_key = scheme.lower() == "bearer" and bool(key.strip())
    caller = access.keys.check(key.strip()) if is_key else None
    if caller is not None:
        return Entry(caller, (caller.id,))
    if is_key and key.strip().startswith(PREFIX):
        return None  # also where none is asked for: a revoked key opens nothing
    if not access.settings.require_keys:
        return Entry(LOCAL)  # OpenAI's clients always send something as a key
    if is_key or not _from_our_page(scope, headers):
        return None
    session = access.sessions.check(_cookie(headers))
    return Entry(session.caller, (session.caller.id, session.id), session.expires) if session else None


def _from_our_page(scope: Scope, headers: Headers) -> bool:
    """Whether a cookie may count: a browser sends it for every page of the same site, whoever wrote that page."""
    origin = headers.get("origin")
    if origin is not None:
        return same_origin(origin, headers.get("host", ""))
    reads = scope["type"] == "http" and scope["method"] in READING
    return reads or headers.get("sec-fetch-site") == "same-origin"


def _cookie(headers: Headers) -> str:
    cookies = SimpleCookie()
    for line in headers.getlist("cookie"):
        for pair in line.split(";"):  # one at a time: a neighbour's odd cookie hides none
            with suppress(CookieError):
                cookies.load(pair.strip())
    return cookies[COOKIE].value if COOKIE in cookies else ""


def _open_to_all(scope: Scope, headers: Headers) -> bool:
    if scope["type"] != "http" or not is_machine_path(scope["path"]):
        return False
    # A browser asks without credentials whether it may ask; nothing but that is answered.
    preflight = scope["method"] == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers
    return scope["path"] in OPEN or preflight


def _wants_a_page(scope: Scope, headers: Headers) -> bool:
    return scope["type"] == "http" and scope["method"] == "GET" and "text/html" in headers.get("accept", "")


def _address(scope: Scope) -> str:
    query = scope["query_string"].decode("latin-1")
    return quote(scope["path"]) + (f"?{query}" if query else "")


def _name_caller(scope: Scope, caller: Caller) -> None:
    """Tell the console's pages who calls; a header of that name is never the client's."""
    headers = MutableHeaders(scope=scope)
    headers[CALLER_HEADER] = caller_to_header(caller)
    scope["headers"] = headers.raw
