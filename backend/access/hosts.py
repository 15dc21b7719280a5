"""Which Host and Origin are trusted, for pages, sockets and the API alike.

A page elsewhere can point its own name at this machine (DNS rebinding) or make a reader's browser send requests here.
Starlette's TrustedHostMiddleware knows fixed names only; here every address literal is trusted on a network, since
rebinding needs a name, and a refusal says which setting allows the host.
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from backend.access.paths import is_machine_path
from backend.access.refusal import refuse
from backend.errors import ForbiddenError


def is_loopback(address: str | None) -> bool:
    """Whether a bind address or host name can only be reached from this machine."""
    if address in (None, ""):
        return False  # no address binds every interface
    if address == "localhost":
        return True
    ip = _ip(str(address))
    return ip is not None and ip.is_loopback


def _ip(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return None


def host_name(host: str) -> str | None:
    """The name in a Host header or the authority of an Origin, without its port; None if it is malformed."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # is checked when it is read
    except ValueError:
        return None
    if parts.netloc != host or "@" in host or not parts.hostname:
        return None
    return parts.hostname.rstrip(".")


class TrustedHosts:
    """ASGI middleware that refuses foreign hosts and origins.

    Args:
        app: what is behind it.
        bind_address: what the server listens on; None for every interface.
        allowed_hosts: further names; `*.example.com` stands for all below, `*` for any.
        allowed_origins: further web origins that may call the API.
    """

    def __init__(
        self, app: ASGIApp, bind_address: str | None, allowed_hosts: list[str], allowed_origins: list[str]
    ) -> None:
        self._app, self._local = app, is_loopback(bind_address)
        own = {bind_address or "", socket.gethostname()} if not self._local else set()
        own |= {f"{name.partition('.')[0]}.local" for name in own if name and _ip(name) is None}
        self._names = {name.lower() for name in own if name}
        self._patterns = [pattern.lower() for pattern in allowed_hosts]
        self._origins = set(allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, and go on."""
        if scope["type"] in ("http", "websocket"):
            try:
                self._check(scope, Headers(scope=scope))
            except ForbiddenError as error:
                await refuse(error, scope, receive, send)
                return
        await self._app(scope, receive, send)

    def trusts(self, name: str) -> bool:
        """Whether a host name is this server's."""
        name = name.lower()
        if is_loopback(name) or name in self._names or (not self._local and _ip(name) is not None):
            return True
        return any(
            pattern in ("*", name) or (pattern.startswith("*.") and name.endswith(pattern[1:]))
            for pattern in self._patterns
        )

    def _check(self, scope: Scope, headers: Headers) -> None:
        host = headers.get("host", "")
        name = host_name(host)
        if name is None or not self.trusts(name):
            raise ForbiddenError(
                f"The host {host!r} is not served here. Add it to TENFOLD_ALLOWED_HOSTS if it is yours.",
                code="forbidden_host",
            )
        origin = headers.get("origin")
        if origin is None:
            if headers.get("sec-fetch-site") == "cross-site" and not _opens_a_page(scope, headers):
                raise ForbiddenError("Requests from other web sites are refused.")
        elif origin not in self._origins and not same_origin(origin, host):
            raise ForbiddenError(
                f"Requests from {origin} are refused. Add it to TENFOLD_ALLOWED_ORIGINS to allow that site."
            )


def same_origin(origin: str, host: str) -> bool:
    """Whether a web origin is the host that was asked."""
    scheme, separator, authority = origin.partition("://")
    return bool(separator) and scheme in ("http", "https") and authority == host and host_name(host) is not None


def _opens_a_page(scope: Scope, headers: Headers) -> bool:
    # A link on another site may lead to the console; nothing else of another site's may ask for anything.
    return (
        scope["type"] == "http"
        and scope["method"] == "GET"
        and headers.get("sec-fetch-mode") == "navigate"
        and not is_machine_path(scope["path"])
    )
