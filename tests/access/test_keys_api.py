"""Programs make, list and revoke keys as the console does, with an administrator's key and no other."""

from __future__ import annotations

from typing import Any

import pytest

from backend.access.caller import Role


@pytest.fixture
def admin(guarded: Any) -> Any:
    return guarded.client(guarded.key(Role.ADMIN))


def test_a_key_made_over_the_api_works_is_listed_without_its_secret_and_ends_when_revoked(
    guarded: Any, admin: Any
) -> None:
    made = admin.post("/api/keys", json={"name": "billing", "role": "read_only"})
    assert made.status_code == 201
    key, program = made.json(), guarded.client(made.json()["key"])
    assert program.get("/api/jobs").status_code == 200 and program.post("/api/jobs", json={}).status_code == 403
    listed = admin.get("/api/keys")
    assert next(row for row in listed.json()["data"] if row["id"] == key["id"])["name"] == "billing"
    assert key["key"] not in listed.text
    assert admin.delete(f"/api/keys/{key['id']}").status_code == 204
    assert program.get("/api/jobs").status_code == 401
    assert admin.delete(f"/api/keys/{key['id']}").status_code == 404


def test_a_key_may_share_anothers_owner(guarded: Any, admin: Any) -> None:
    first = admin.post("/api/keys", json={"name": "one"}).json()
    second = admin.post("/api/keys", json={"name": "two", "owner": first["id"]}).json()
    third = admin.post("/api/keys", json={"name": "three"}).json()
    tenants = {row.id: row.tenant for row in guarded.access.keys.latest()}
    assert tenants[second["id"]] == tenants[first["id"]] != tenants[third["id"]]
    assert admin.post("/api/keys", json={"name": "four", "owner": "nobody"}).status_code == 404


@pytest.mark.parametrize("body", [{"name": " "}, {"name": "x", "role": "root"}, {}])
def test_a_key_without_name_or_with_an_unknown_role_is_refused(admin: Any, body: dict[str, str]) -> None:
    assert admin.post("/api/keys", json=body).status_code == 400


@pytest.mark.parametrize("role", [Role.USER, Role.READ_ONLY])
def test_keys_are_nobodys_business_but_an_administrators(guarded: Any, role: Role) -> None:
    program = guarded.client(guarded.key(role))
    assert program.get("/api/keys").status_code == 403
    assert program.post("/api/keys", json={"name": "mine", "role": "admin"}).status_code == 403
    assert program.delete("/api/keys/any").status_code == 403
