"""A web page elsewhere cannot drive the server; opened to a network, it asks for a key."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from backend.api.gate import is_loopback


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"origin": "null"}, {"host": "evil.example"},
     {"host": "127.0.0.1.evil.example"}, {"sec-fetch-site": "cross-site"}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/models", "/api/switches", "/api/documents"])
def test_strangers_are_refused(server: Any, path: str, headers: dict[str, str]) -> None:
    answer = httpx.get(server.url + path, headers=headers)
    assert answer.status_code == 403 and answer.json()["error"]["message"]


def test_the_consoles_own_origin_is_served(server: Any) -> None:
    assert httpx.get(f"{server.url}/v1/models", headers={"origin": server.url}).status_code == 200
    assert httpx.get(f"{server.url}/v1/models", headers={"host": f"localhost:{server.port}"}).status_code == 200


def test_loopback_is_told_from_a_network() -> None:
    assert is_loopback("127.0.0.1") and is_loopback("localhost") and is_loopback("::1") and is_loopback("[::1]")
    assert not any(map(is_loopback, [None, "", "0.0.0.0", "192.168.1.4", "example.org", "127.0.0.1.example"]))


def test_opened_to_a_network_it_asks_for_a_key(own_server: Any) -> None:
    # Every interface is bound, and only loopback is spoken to.
    own_server.address = "0.0.0.0"
    own_server.environment["TENFOLD_ALLOWED_ORIGINS"] = '["https://good.example"]'
    own_server.start()
    url = own_server.url
    assert httpx.get(f"{url}/healthz").status_code == 200
    for headers in ({}, {"authorization": "Bearer tf-wrong"}, {"authorization": "Basic x"}):
        answer = httpx.get(f"{url}/v1/models", headers=headers)
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert httpx.get(f"{url}/metrics").status_code == 401
    log = own_server.log.read_text()
    key = next(word for word in log.split() if word.startswith("tf-"))
    good = {"authorization": f"Bearer {key}"}
    assert httpx.get(f"{url}/v1/models", headers=good).status_code == 200
    assert key.encode() not in (own_server.data_dir / "tenfold.sqlite3").read_bytes(), "the key is stored in clear"
    allowed = httpx.options(f"{url}/v1/models", headers={"origin": "https://good.example"})
    assert allowed.headers["access-control-allow-origin"] == "https://good.example"
    refused = httpx.get(f"{url}/v1/models", headers={**good, "origin": "https://evil.example"})
    assert refused.status_code == 403
