"""Only this server's own names are answered to, on pages, sockets and uploads: DNS rebinding finds nothing."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import WebSocketDenialResponse

from backend.access.hosts import TrustedHosts, host_name, is_loopback, same_origin

STREAM = "ws://127.0.0.1:8501/_stcore/stream"
FOREIGN = ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:1", "10.0.0.7", "[::1", "", "a@localhost"]


def test_loopback_is_told_from_a_network() -> None:
    assert is_loopback("127.0.0.1") and is_loopback("localhost") and is_loopback("::1") and is_loopback("[::1]")
    assert not any(map(is_loopback, [None, "", "0.0.0.0", "192.168.1.4", "example.org", "127.0.0.1.example"]))


@pytest.mark.parametrize("host", FOREIGN)
def test_a_foreign_host_is_refused_on_page_socket_and_upload(local: Any, host: str) -> None:
    client, headers = local.client(), {"host": host}
    for path in ("/", "/chat", "/_stcore/health", "/media/x", "/v1/models", "/health", "/sign-in"):
        answer = client.get(path, headers=headers)
        assert answer.status_code == 403 and answer.json()["error"]["code"] == "forbidden_host", path
    assert client.put("/_stcore/upload_file/s/f", headers=headers, content=b"x").status_code == 403
    with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect(STREAM, headers=headers):
        pass
    assert refused.value.status_code == 403
    assert not local.seen


@pytest.mark.parametrize("host", ["localhost:8501", "127.0.0.1", "[::1]:8501", "LOCALHOST", "127.0.0.5:1"])
def test_every_name_of_this_machine_is_served(local: Any, host: str) -> None:
    assert local.client().get("/", headers={"host": host}).status_code == 200


def test_a_named_host_is_served(opened: Any) -> None:
    client = opened(allowed_hosts=["ten.example", "*.inner.example"]).client()
    for host, status in (("ten.example", 200), ("a.inner.example:80", 200), ("inner.example", 403), ("x.example", 403)):
        assert client.get("/", headers={"host": host}).status_code == status, host


def test_on_a_network_addresses_are_served_and_foreign_names_are_not() -> None:
    hosts = TrustedHosts(lambda *_: None, "0.0.0.0", [], [])  # type: ignore[arg-type, return-value]
    assert all(map(hosts.trusts, ["192.168.1.4", "::1", "localhost", "fe80::1"]))
    assert not hosts.trusts("evil.example")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://[::1", "http://", "", "http://127.0.0.1"])
@pytest.mark.parametrize("path", ["/v1/models", "/api/switches", "/_stcore/health"])
def test_a_foreign_or_broken_origin_is_refused(local: Any, path: str, origin: str) -> None:
    answer = local.client().get(path, headers={"origin": origin})
    assert answer.status_code == 403 and answer.json()["error"]["message"]


def test_a_socket_of_another_sites_page_is_refused(local: Any) -> None:
    client = local.client()
    with pytest.raises(WebSocketDenialResponse), client.websocket_connect(
        STREAM, headers={"origin": "https://evil.example"}
    ):
        pass
    with client.websocket_connect(STREAM, headers={"origin": "http://127.0.0.1:8501"}) as socket:
        assert "admin" in socket.receive_text()


def test_another_site_may_link_to_a_page_and_no_more(local: Any) -> None:
    client, cross = local.client(), {"sec-fetch-site": "cross-site"}
    assert client.get("/chat", headers={**cross, "sec-fetch-mode": "navigate"}).status_code == 200
    assert client.get("/chat", headers=cross).status_code == 403
    assert client.get("/api/switches", headers={**cross, "sec-fetch-mode": "navigate"}).status_code == 403


def test_hosts_and_origins_are_read_to_the_letter() -> None:
    assert host_name("a.example:80") == "a.example" and host_name("[::1]:80") == "::1"
    assert [host_name(bad) for bad in ("[::1", "a:b", "a/b", "a@b", "", "a?b", "a:99999")] == [None] * 7
    assert same_origin("http://a:1", "a:1") and not same_origin("ftp://a:1", "a:1") and not same_origin("a:1", "a:1")
