"""Where keys are required, a stranger sees the sign-in form and nothing else; a key opens what its role may."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from backend.access.caller import Role
from backend.access.sessions import LIFETIME, Sessions

HTML = {"accept": "text/html,*/*"}
OWN = {"origin": "http://127.0.0.1:8501"}
STREAM = "ws://127.0.0.1:8501/_stcore/stream"


def test_a_stranger_gets_the_form_and_nothing_of_the_console(guarded: Any) -> None:
    stranger = guarded.client()
    page = stranger.get("/dashboard?a=1", headers=HTML)
    assert page.status_code == 401 and 'value="/dashboard?a=1"' in page.text
    assert "http" not in page.text.split("<main")[1], "the form loads something"
    for path in ("/", "/_stcore/health", "/_stcore/host-config", "/media/x", "/component/x", "/static/js/x.js",
                 "/metrics", "/version", "/load", "/api/docs", "/v1/models"):  # fmt: skip
        answer = stranger.get(path)
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer", path
    assert stranger.get("/_stcore/health").text.startswith("You are signed out"), "a page shows what it is told"
    assert stranger.put("/_stcore/upload_file/s/f", content=b"x" * 1000).status_code == 401
    with pytest.raises(WebSocketDenialResponse) as refused, stranger.websocket_connect(STREAM):
        pass
    assert refused.value.status_code == 401
    assert not guarded.seen


def test_whether_the_server_works_is_open_to_all_and_no_more(guarded: Any) -> None:
    stranger = guarded.client()
    assert stranger.get("/health").status_code == 503 and stranger.get("/ping").content == b""
    assert stranger.get("/healthz").json() == {"status": "stopped"}
    assert "model" in guarded.client(guarded.key()).get("/healthz").json()


def test_a_person_signs_in_and_out(guarded: Any) -> None:
    browser = guarded.client()
    wrong = browser.post("/sign-in", data={"key": "tf-wrong", "next": "/jobs"}, headers=OWN)
    assert wrong.status_code == 401 and "not valid" in wrong.text and 'value="/jobs"' in wrong.text
    key = guarded.key()
    answer = browser.post("/sign-in", data={"key": f" {key} ", "next": "/jobs"}, headers=OWN)
    assert answer.status_code == 303 and answer.headers["location"] == "/jobs"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and f"max-age={int(LIFETIME)}" in cookie
    assert "user" in browser.get("/", headers=HTML).text
    assert browser.get("/api/docs").status_code == 200 and browser.get("/v1/models").status_code == 200
    with browser.websocket_connect(STREAM, headers=OWN) as socket:
        assert "user" in socket.receive_text()
    assert browser.get("/sign-out", headers=HTML).status_code == 200, "looking at the page signs nobody out"
    assert browser.get("/").status_code == 200
    stolen = dict(browser.cookies)
    assert browser.post("/sign-out", headers=OWN).status_code == 303
    assert guarded.client().get("/", cookies=stolen).status_code == 401, "the cookie still counts"


def test_a_sign_in_outlives_the_server_but_not_its_time(guarded: Any) -> None:
    database, keys = guarded.runtime.database, guarded.access.keys
    secret = guarded.access.sessions.open(keys.check(guarded.key()))
    assert Sessions(database, keys).check(secret) is not None
    later = Sessions(database, keys, clock=lambda: 1e12)
    assert later.check(secret) is None
    assert Sessions(database, keys).check(secret) is None, "what has expired is swept"


def test_neither_keys_nor_cookies_are_stored_in_clear(guarded: Any) -> None:
    key = guarded.key()
    secret = guarded.access.sessions.open(guarded.access.keys.check(key))
    with guarded.runtime.database.engine.connect() as connection:
        rows = [row for table in ("api_key", "sign_in") for row in connection.exec_driver_sql(f"select * from {table}")]
    assert len(rows) == 2 and key not in str(rows) and secret not in str(rows)


def test_a_cookie_counts_only_for_our_own_page(guarded: Any) -> None:
    browser = guarded.signed_in()
    for headers in ({"origin": "https://good.example"}, {}, {"sec-fetch-site": "same-site"}):
        assert browser.post("/v1/completions", json={}, headers=headers).status_code == 401, headers
    for headers in (OWN, {"sec-fetch-site": "same-origin"}):
        assert browser.post("/v1/completions", json={}, headers=headers).status_code == 400, headers


def test_a_key_guessed_wrong_too_often_has_to_wait(guarded: Any) -> None:
    browser, key = guarded.client(), guarded.key()
    statuses = [browser.post("/sign-in", data={"key": f"tf-{i}"}, headers=OWN).status_code for i in range(11)]
    assert statuses == [401] * 10 + [429]
    assert browser.post("/sign-in", data={"key": key}, headers=OWN).status_code == 429
    assert browser.post("/sign-in", data={"key": "x" * 20_000}, headers=OWN).status_code == 413


@pytest.mark.parametrize("goal", ["https://evil.example", "//evil.example", "/\\evil.example", "/sign-out", "/a\nb"])
def test_a_sign_in_leads_to_this_server_only(guarded: Any, goal: str) -> None:
    answer = guarded.client().post("/sign-in", data={"key": guarded.key(), "next": goal}, headers=OWN)
    assert answer.headers["location"] == "/"


def test_a_link_from_another_site_finds_the_signed_in_signed_in(guarded: Any) -> None:
    cross = {**HTML, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    page = guarded.client().get("/chat", headers=cross)
    assert 'http-equiv="refresh"' in page.text, "the browser is not asked to come again with its strict cookie"
    assert "refresh" not in guarded.client().get("/chat", headers={**HTML, "sec-fetch-site": "none"}).text


@pytest.mark.parametrize("how", ["the key is revoked", "its owner signs out"])
def test_an_open_page_ends_when(guarded: Any, how: str) -> None:
    key = guarded.key()
    with guarded.client() as browser:
        browser.post("/sign-in", data={"key": key}, headers=OWN)
        with browser.websocket_connect(STREAM, headers=OWN) as socket:
            socket.receive_text()
            if how == "the key is revoked":
                guarded.access.keys.revoke(guarded.access.keys.check(key).id)
            else:
                browser.post("/sign-out", headers=OWN)
            with pytest.raises(WebSocketDisconnect) as closed:
                socket.receive_text()
            assert closed.value.code == 1008
        assert browser.get("/").status_code == 401
        with pytest.raises(WebSocketDenialResponse), browser.websocket_connect(STREAM, headers=OWN):
            pass


def test_others_pages_stay_open_when_a_key_is_revoked(guarded: Any) -> None:
    key, other = guarded.key(), guarded.key()
    with guarded.client(other) as program, program.websocket_connect(STREAM) as socket:
        socket.receive_text()
        guarded.access.keys.revoke(guarded.access.keys.check(key).id)
        socket.send_text("still here")
        assert socket.receive_text() == "still here"


def test_a_revoked_key_stops_at_once_and_a_new_one_works_at_once(guarded: Any) -> None:
    key = guarded.key()
    program = guarded.client(key)
    assert program.get("/v1/models").status_code == 200
    guarded.access.keys.revoke(guarded.access.keys.check(key).id)
    assert program.get("/v1/models").status_code == 401


def test_checking_a_key_never_waits_for_the_database(guarded: Any) -> None:
    key = guarded.key()
    with guarded.runtime.database.engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # whoever writes now waits
        assert guarded.client(key).get("/v1/models").status_code == 200
        connection.exec_driver_sql("ROLLBACK")
    guarded.access.keys.close()
    assert guarded.access.keys.latest()[0].used is not None


ALLOWED = {
    Role.READ_ONLY: {"look": True, "search": True, "chat": False, "upload": False, "delete": False, "switch": False},
    Role.USER: {"look": True, "search": True, "chat": True, "upload": True, "delete": True, "switch": False},
    Role.ADMIN: {"look": True, "search": True, "chat": True, "upload": True, "delete": True, "switch": True},
}


@pytest.mark.parametrize("role", list(Role))
def test_a_role_may_do_what_it_says_and_no_more(guarded: Any, role: Role) -> None:
    program = guarded.client(guarded.key(role))
    answers = {
        "look": program.get("/api/switches"),
        "search": program.get("/api/search", params={"q": ""}),
        "chat": program.post("/v1/chat/completions", json={}),
        "upload": program.put("/_stcore/upload_file/s/f", content=b"x"),
        "delete": program.delete("/api/documents/none"),
        "switch": program.patch("/api/switches", json={"nonsense": 1}),
    }
    assert {name: answer.status_code != 403 for name, answer in answers.items()} == ALLOWED[role]
    for answer in answers.values():
        assert answer.status_code != 403 or role in answer.json()["error"]["message"]


def test_where_no_key_is_asked_for_one_that_is_given_still_counts(local: Any) -> None:
    assert local.client().get("/v1/models").status_code == 200
    assert local.client("unused").get("/v1/models").status_code == 200, "OpenAI's clients always send something"
    key = local.key(Role.READ_ONLY)
    reader = local.client(key)
    assert reader.patch("/api/switches", json={}).status_code == 403
    assert reader.post("/ping").status_code == 503, "a health check needs no role"
    local.access.keys.revoke(local.access.keys.check(key).id)
    refused = reader.get("/v1/models")
    assert refused.status_code == 401 and "revoked" in refused.json()["error"]["message"], "it opens nothing any more"
    assert reader.get("/health").status_code == 503
    assert local.client().get("/sign-in", headers=HTML).headers["location"] == "/"


def test_nobody_can_name_another_caller(guarded: Any) -> None:
    forged = '{"id": "", "tenant": "", "role": "admin"}'
    program = guarded.client(guarded.key(Role.READ_ONLY))
    headers = [("x-tenfold-caller", forged), ("X-Tenfold-Caller", forged)]
    assert "read_only" in program.get("/", headers=headers).text
    with program.websocket_connect(STREAM, headers={"x-tenfold-caller": forged}) as socket:
        assert "read_only" in socket.receive_text()


def test_a_browser_of_an_allowed_site_may_ask_and_call(guarded: Any) -> None:
    ask = {"origin": "https://good.example", "access-control-request-method": "POST",
           "access-control-request-headers": "authorization"}  # fmt: skip
    preflight = guarded.client().options("/v1/chat/completions", headers=ask)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://good.example"
    answer = guarded.client(guarded.key()).get("/v1/models", headers={"origin": "https://good.example"})
    assert answer.headers["access-control-allow-origin"] == "https://good.example"
    assert "x-request-id" in answer.headers["access-control-expose-headers"]
    refused = guarded.client().options("/v1/models", headers={**ask, "origin": "https://evil.example"})
    assert refused.status_code == 403


def test_every_answer_has_its_id_and_its_policy(guarded: Any) -> None:
    client = guarded.client()
    for path in ("/", "/health", "/v1/models", "/sign-in"):
        answer = client.get(path, headers={"x-request-id": "mine-1"})
        assert answer.headers["x-request-id"] == "mine-1"
        assert "default-src" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff" and "referrer-policy" in answer.headers
    odd = client.get("/", headers={"x-request-id": "not a b"}).headers["x-request-id"]
    assert len(odd) == 32 and odd != client.get("/").headers["x-request-id"]


@pytest.mark.parametrize("path", ["/chat/completions", "/completions", "/embeddings", "/models", "/v1", "/v1/nothing",
                                  "/api/nothing", "/redoc", "/api"])  # fmt: skip
def test_a_programs_path_is_never_answered_with_a_page(local: Any, path: str) -> None:
    answer = local.client().post(path, json={}, headers=HTML)
    assert answer.status_code == 404 and answer.json()["error"]["message"]
    assert not local.seen


def test_health_version_load_and_docs_answer_as_clients_expect(local: Any) -> None:
    client: TestClient = local.client()
    for path in ("/health", "/ping"):
        answer = client.get(path)
        assert answer.status_code == 503 and answer.content == b"", "the engine is not running"
        assert client.head(path).status_code == 503
    assert client.post("/ping").status_code == 503 and client.head("/healthz").status_code == 503
    assert set(client.get("/version").json()) == {"version"}
    assert client.get("/load").json() == {"server_load": 0}
    assert client.get("/docs").headers["location"] == "/api/docs"
    assert client.get("/openapi.json").json()["paths"].keys() == client.get("/api/openapi.json").json()["paths"].keys()
    assert not local.seen


@pytest.mark.parametrize("path", ["/v1/completions", "/api/documents"])
def test_a_body_over_the_limit_is_refused_whether_or_not_it_tells_its_length(opened: Any, path: str) -> None:
    client = opened(max_upload_mb=11).client()
    megabyte = b"x" * (1 << 20)
    kind = {"content-type": "multipart/form-data; boundary=b" if "documents" in path else "application/json"}
    for body in (megabyte * 13, (megabyte for _ in range(13))):
        answer = client.post(path, content=body, headers=kind)
        assert answer.status_code == 413, answer.text
        assert answer.json()["error"]["code"] == "file_too_large"
