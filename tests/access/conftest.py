"""The gate with the real API, keys and database, and a console that only says who it was told is calling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from backend.access.caller import Role, caller_from_headers
from backend.access.gate import Gate
from backend.access.headers import ResponseHeaders
from backend.access.hosts import TrustedHosts
from backend.api.app import create_api
from backend.runtime import Runtime
from backend.settings import Settings


class Door:
    """A server behind the gate, in this process; the engine is not started."""

    def __init__(self, data_dir: Path, bind_address: str = "127.0.0.1", **changes: Any) -> None:
        self.settings = Settings(data_dir=data_dir, **changes)
        self.runtime = Runtime(self.settings)
        self.access = self.runtime.access
        self.seen: list[str] = []  # paths that reached the console

        async def page(request: Request) -> HTMLResponse:
            self.seen.append(request.url.path)
            await request.body()
            return HTMLResponse(f"console for {caller_from_headers(request.headers)}")

        async def stream(socket: WebSocket) -> None:
            self.seen.append(socket.url.path)
            await socket.accept()
            await socket.send_text(str(caller_from_headers(socket.headers)))
            async for text in socket.iter_text():
                await socket.send_text(text)

        self.app = Starlette(
            routes=[
                WebSocketRoute("/_stcore/stream", stream),
                Route("/{path:path}", page, methods=["GET", "POST", "PUT"]),
            ],
            middleware=[
                Middleware(ResponseHeaders, policy="default-src 'self'"),
                Middleware(
                    TrustedHosts,
                    bind_address=bind_address,
                    allowed_hosts=self.settings.allowed_hosts,
                    allowed_origins=self.settings.allowed_origins,
                ),
                Middleware(Gate, api=create_api(lambda: self.runtime, self.settings), access=lambda: self.access),
            ],
        )

    def client(self, key: str | None = None) -> TestClient:
        """A program with a key, or a browser that has none yet."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return TestClient(
            self.app, base_url="http://127.0.0.1:8501", headers=headers, follow_redirects=False,
            raise_server_exceptions=False,
        )  # fmt: skip

    def key(self, role: Role = Role.USER, tenant: str | None = None) -> str:
        return self.access.keys.create("test", role, tenant)

    def signed_in(self, role: Role = Role.USER) -> TestClient:
        """A browser whose owner signed in."""
        browser = self.client()
        answer = browser.post("/sign-in", data={"key": self.key(role)}, headers={"origin": "http://127.0.0.1:8501"})
        assert answer.status_code == 303
        return browser


Open = Callable[..., Door]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens doors that are closed after the test."""
    doors: list[Door] = []

    def open_door(**changes: Any) -> Door:
        doors.append(Door(tmp_path / f"data{len(doors)}", **changes))
        return doors[-1]

    yield open_door
    for door in doors:
        door.runtime.close()


@pytest.fixture
def local(opened: Open) -> Door:
    """A server on loopback that asks for no key."""
    return opened()


@pytest.fixture
def guarded(opened: Open) -> Door:
    """A server that asks for a key."""
    return opened(require_keys=True, allowed_origins=["https://good.example"])
