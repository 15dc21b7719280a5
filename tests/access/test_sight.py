"""Over the API a collection is its owner's: to another caller every route answers as if it were not there."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from backend.access.caller import Role

ROUTES: dict[str, tuple[str, str, Any]] = {
    "read": ("GET", "", None),
    "versions": ("GET", "/versions", None),
    "changes": ("GET", "/versions/{number}/changes", None),
    "assign": ("PUT", "/collections", {"collections": ["default"]}),
    "retry": ("POST", "/retry", None),
    "cancel": ("POST", "/cancel", None),
    "delete": ("DELETE", "", None),
}
"""Those at and below a document's path."""


class Callers:
    """Two owners of keys and an administrator; the first has a document in a private collection."""

    def __init__(self, door: Any) -> None:
        self.one, self.two, self.root = (
            door.client(door.key(role, tenant))
            for role, tenant in ((Role.USER, "one"), (Role.USER, "two"), (Role.ADMIN, None))
        )
        self.reader = door.client(door.key(Role.READ_ONLY, "one"))
        made = self.one.put("/api/documents/collections/diary", json={"private": True})
        assert (made.status_code, made.json()) == (200, {"name": "diary", "documents": 0, "private": True})
        self.document = upload(self.one, "diary").json()["data"][0]["id"]


def upload(client: TestClient, collection: str) -> Any:
    return client.post(
        "/api/documents", files={"files": ("key.txt", b"It lies there.")}, data={"collection": collection}
    )


def ask(client: TestClient, route: str, document: str) -> Any:
    method, path, body = ROUTES[route]
    return client.request(method, f"/api/documents/{document}{path.replace('{number}', '1')}", json=body)


@pytest.fixture
def callers(guarded: Any) -> Callers:
    return Callers(guarded)


def test_no_route_of_a_document_is_missing_here(callers: Callers) -> None:
    below = "/api/documents/{document_id}"
    described = {
        (method.upper(), path.removeprefix(below))
        for path, methods in callers.root.get("/api/openapi.json").json()["paths"].items()
        if path.startswith(below)
        for method in methods
    }
    assert described == {(method, path) for method, path, _ in ROUTES.values()}


@pytest.mark.parametrize("route", ROUTES)
def test_what_is_private_to_one_is_not_there_for_another(callers: Callers, route: str) -> None:
    absent, hidden = ask(callers.two, route, "absent"), ask(callers.two, route, callers.document)
    assert absent.status_code == hidden.status_code == 404
    assert hidden.text.replace(callers.document, "absent") == absent.text
    for seeing in (callers.root, callers.one):
        answer = ask(seeing, route, callers.document)
        assert "There is no document" not in answer.text or route == "delete"
    assert callers.one.get(f"/api/documents/{callers.document}").status_code == (404 if route == "delete" else 200)


def test_lists_show_what_is_seen(callers: Callers) -> None:
    for client, sees in ((callers.one, 1), (callers.reader, 1), (callers.root, 1), (callers.two, 0)):
        for query in ("", "?collection=diary"):
            listed = client.get(f"/api/documents{query}").json()
            assert (listed["total"], len(listed["data"])) == (sees, sees)
        private = [{"name": "diary", "documents": 1, "private": True}] * sees
        assert client.get("/api/documents/collections").json()["data"] == private


@pytest.mark.parametrize("what", ["search", "chat", "delete"])
def test_a_collection_of_anothers_cannot_be_asked(callers: Callers, guarded: Any, what: str) -> None:
    def answer(collection: str) -> Any:
        if what == "search":
            return callers.two.get("/api/search", params={"q": "Where?", "collection": collection})
        if what == "delete":
            return callers.two.delete(f"/api/documents/collections/{collection}")
        body = {"model": guarded.settings.served_model, "messages": [{"role": "user", "content": "Where?"}]}
        return callers.two.post("/v1/chat/completions", json={**body, "documents": collection})

    absent, hidden = answer("absent"), answer("diary")
    assert absent.status_code == hidden.status_code == (404 if what == "delete" else 400)
    assert "There is no collection" in absent.text and hidden.text.replace("diary", "absent") == absent.text


def test_a_name_of_anothers_cannot_be_taken(callers: Callers) -> None:
    own = upload(callers.two, "own").json()["data"][0]["id"]
    for answer in (
        upload(callers.two, "diary"),
        callers.two.put(f"/api/documents/{own}/collections", json={"collections": ["diary"]}),
        callers.two.put("/api/documents/collections/diary", json={"private": True}),
    ):
        assert answer.status_code == 409 and "taken by a private collection" in answer.json()["error"]["message"]


def test_a_collection_is_shown_to_all_and_hidden_again(callers: Callers) -> None:
    place = "/api/documents/collections/diary"
    assert callers.reader.put(place, json={"private": False}).status_code == 403
    assert callers.one.put(place, json={"private": False}).json()["private"] is False
    assert ask(callers.two, "read", callers.document).status_code == 200
    refused = callers.two.put(place, json={"private": True})
    assert refused.status_code == 403 and refused.json()["error"]["code"] == "insufficient_role"
    assert callers.root.put(place, json={"private": True}).json()["private"] is True
    assert ask(callers.one, "read", callers.document).status_code == 404, "it is the administrator's now"


def test_a_collection_may_be_called_as_one_likes(callers: Callers) -> None:
    for name in ("collections", "a/b", "reindex", "ä ö"):
        assert callers.one.put(f"/api/documents/collections/{name}", json={"private": True}).json()["name"] == name
        assert callers.one.delete(f"/api/documents/collections/{name}").status_code == 204
    assert callers.one.put("/api/documents/collections/%20", json={"private": True}).status_code == 400
    assert callers.one.put("/api/documents/collections/default", json={"private": True}).status_code == 400
