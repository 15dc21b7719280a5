"""/v1/files through the real `openai` client against a real server, and whose files are whose."""

from __future__ import annotations

import io
import time
from typing import Any

import openai
import pytest


@pytest.fixture(scope="module")
def client(server: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0, timeout=120)


def upload(client: Any, name: str, data: bytes = b"{}\n", purpose: str = "batch", **more: Any) -> Any:
    return client.files.create(file=(name, data), purpose=purpose, **more)


def test_a_file_is_kept_read_and_deleted(client: Any) -> None:
    data = bytes(range(256)) * 9000  # more than one piece
    file = upload(client, "lines of März.jsonl", data)
    assert (file.object, file.filename, file.bytes, file.purpose) == (
        "file", "lines of März.jsonl", len(data), "batch"
    )
    assert abs(file.created_at - time.time()) < 60 and file.expires_at == file.created_at + 30 * 86400
    assert client.files.wait_for_processing(file.id).status == "processed"
    assert client.files.retrieve(file.id) == file
    content = client.files.content(file.id)
    assert content.read() == data
    assert "M%C3%A4rz" in content.response.headers["content-disposition"]
    deleted = client.files.delete(file.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (file.id, "file", True)
    for gone in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError, match="no file"):
            gone(file.id)


def test_equal_bytes_are_there_until_the_last_name_is_gone(client: Any, server: Any) -> None:
    kept = server.data_dir / "api-files"
    first, second = upload(client, "one.jsonl", b"the same"), upload(client, "two.jsonl", b"the same")
    before = len(list(kept.iterdir()))
    client.files.delete(first.id)
    assert client.files.content(second.id).read() == b"the same" and len(list(kept.iterdir())) == before
    client.files.delete(second.id)
    assert len(list(kept.iterdir())) == before - 1


def test_a_list_is_paged_even_while_its_files_are_deleted(client: Any) -> None:
    for file in client.files.list(purpose="evals"):  # others use this server too
        client.files.delete(file.id)
    made = [upload(client, f"{i}.txt", purpose="evals").id for i in range(7)]
    listed = [file.id for file in client.files.list(purpose="evals", limit=3)]
    assert listed == made[::-1]
    assert [file.id for file in client.files.list(purpose="evals", order="asc", limit=2)] == made
    page = client.files.list(purpose="evals", limit=3)
    assert page.has_more and [file.id for file in page.data] == made[:3:-1]
    for file in client.files.list(purpose="evals", limit=3):
        client.files.delete(file.id)
    assert not client.files.list(purpose="evals").data


def test_a_file_expires_when_it_is_told_to(client: Any) -> None:
    file = upload(client, "x.txt", purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600})
    assert file.expires_at == file.created_at + 3600
    client.files.delete(file.id)
    lasting = upload(client, "y.txt", purpose="user_data")
    assert lasting.expires_at is None
    client.files.delete(lasting.id)
    for wrong in ({"anchor": "created_at", "seconds": 10}, {"anchor": "created_at"}, {"anchor": "x", "seconds": 3600}):
        with pytest.raises(openai.BadRequestError, match="expires_after"):
            upload(client, "z.txt", expires_after=wrong)
    with pytest.raises(openai.BadRequestError, match="purpose"):
        upload(client, "z.txt", purpose="mischief")


def test_a_file_is_its_tenants_alone(guarded: Any) -> None:
    one, another = (guarded.client(guarded.key()) for _ in range(2))
    made = one.post("/v1/files", files={"file": ("a.jsonl", io.BytesIO(b"mine"))}, data={"purpose": "batch"}).json()
    assert one.get(f"/v1/files/{made['id']}/content").content == b"mine"
    assert another.get("/v1/files").json()["data"] == []
    for path in (f"/v1/files/{made['id']}", f"/v1/files/{made['id']}/content"):
        assert another.get(path).status_code == 404
    assert another.delete(f"/v1/files/{made['id']}").status_code == 404
    assert one.get("/v1/files").json()["first_id"] == made["id"]


def test_bytes_without_a_name_are_swept(guarded: Any) -> None:
    files, folder = guarded.runtime.files, guarded.settings.api_files_dir
    kept = files.upload("a", [b"named"], tenant="", purpose="batch")
    (folder / ("0" * 64)).write_bytes(b"left by a kill")
    (folder / "tmpx").write_bytes(b"half")
    files.sweep()
    assert [path.name for path in folder.iterdir()] == [kept.sha256]
    with guarded.runtime.database.session() as session:
        kept.expires = time.time() - 1
        session.add(kept)
    files.drop_expired()
    assert not list(folder.iterdir())
