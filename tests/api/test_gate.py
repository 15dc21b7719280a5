"""The gate of the running product: a web page elsewhere cannot drive it; opened to a network, it asks for a key."""

from __future__ import annotations

import asyncio
import re
import stat
from typing import Any

import httpx
import pytest
import websockets

FOREIGN = {"host": "evil.example"}


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"origin": "null"}, FOREIGN, {"host": "127.0.0.1.evil.example"},
     {"sec-fetch-site": "cross-site"}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/models", "/api/switches", "/api/documents"])
def test_strangers_are_refused(server: Any, path: str, headers: dict[str, str]) -> None:
    answer = httpx.get(server.url + path, headers=headers)
    assert answer.status_code == 403 and answer.json()["error"]["message"]


def test_a_rebound_name_gets_neither_page_nor_socket_nor_upload(server: Any) -> None:
    assert httpx.get(server.url, headers=FOREIGN).status_code == 403
    upload = httpx.put(f"{server.url}/_stcore/upload_file/s/f", headers=FOREIGN, files={"f": b"x"})
    assert upload.status_code == 403
    assert handshake(server, "evil.example") == 403
    assert handshake(server, f"localhost:{server.port}") == 101


def handshake(server: Any, host: str, key: str | None = None) -> int:
    """The status with which the console's websocket answers."""
    headers = {"authorization": f"Bearer {key}"} if key else {}

    async def connect() -> int:
        try:
            async with websockets.connect(
                f"ws://{host}/_stcore/stream", host="127.0.0.1", port=server.port, subprotocols=["streamlit"],
                origin=f"http://{host}", additional_headers=headers, proxy=None,
            ):  # fmt: skip
                return 101
        except websockets.InvalidStatus as refused:
            return refused.response.status_code

    return asyncio.run(connect())


def test_the_consoles_own_origin_is_served(server: Any) -> None:
    assert httpx.get(f"{server.url}/v1/models", headers={"origin": server.url}).status_code == 200
    assert httpx.get(f"{server.url}/v1/models", headers={"host": f"localhost:{server.port}"}).status_code == 200


def test_a_health_check_is_green_only_while_the_engine_serves(server: Any) -> None:
    for path in ("/health", "/ping"):
        answer = httpx.get(server.url + path)
        assert answer.status_code == 200 and answer.content == b""
    assert httpx.get(f"{server.url}/load").json()["server_load"] >= 0


def test_what_is_stored_is_its_owners_alone(server: Any) -> None:
    for path in (server.data_dir, server.data_dir / "tenfold.sqlite3", server.data_dir / "files"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def test_opened_to_a_network_it_asks_for_a_key(own_server: Any) -> None:
    # Every interface is bound, and only loopback is spoken to.
    own_server.address = "0.0.0.0"
    own_server.start(ready=False)
    own_server.wait_ready()
    url = own_server.url
    assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{url}/health").status_code == 200
    for headers in ({}, {"authorization": "Bearer tf-wrong"}, {"authorization": "Basic x"}):
        answer = httpx.get(f"{url}/v1/models", headers=headers)
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert httpx.get(f"{url}/_stcore/health", headers=headers).status_code == 401
    host = f"127.0.0.1:{own_server.port}"
    assert handshake(own_server, host) == 401
    assert httpx.put(f"{url}/_stcore/upload_file/s/f", files={"f": b"x"}).status_code == 401
    page = httpx.get(url, headers={"accept": "text/html"})
    assert page.status_code == 401 and "<form" in page.text and "streamlit" not in page.text.lower()
    key = re.search(r"tf-\S+", own_server.log.read_text())
    assert key is not None
    good = {"authorization": f"Bearer {key[0]}"}
    assert httpx.get(f"{url}/v1/models", headers=good).status_code == 200
    assert handshake(own_server, host, key[0]) == 101
    assert key[0].encode() not in (own_server.data_dir / "tenfold.sqlite3").read_bytes(), "the key is stored in clear"
