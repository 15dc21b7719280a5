"""Documents change, move between collections and come in archives; nothing that is known is embedded again."""

from __future__ import annotations

import io
import threading
import time
import zipfile
from typing import Any

import httpx

from tests.conftest import Server


def sections(*facts: str) -> bytes:
    filler = "It was described at length by those who kept the records of the parish over many years. " * 4
    return "\n\n".join(f"# Section {i}\n\n{fact} {filler}" for i, fact in enumerate(facts)).encode()


def embedded(server: Server) -> int:
    return int(httpx.get(f"{server.url}/healthz", timeout=10).json()["stats"]["embedded_texts"])


def search(server: Server, question: str, **params: Any) -> dict[str, Any]:
    answer = httpx.get(f"{server.url}/api/search", params={"q": question, **params}, timeout=30)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_a_changed_file_is_a_new_version_and_only_the_change_is_embedded(server: Server) -> None:
    old = sections("The bell weighs nine tons.", "The clock was made by Henk Visser.", "The door is of oak.")
    new = sections("The bell weighs nine tons.", "The clock was made by Maria Blum.", "The door is of oak.")
    first = server.wait_document(server.upload("parish.md", old)["id"])
    assert first["version"] == 1
    before = embedded(server)
    second = server.wait_document(server.upload("parish.md", new)["id"])
    assert (second["id"], second["version"], second["state"]) == (first["id"], 2, "ready")
    assert 1 <= embedded(server) - before < first["chunk_count"]
    texts = " ".join(chunk["text"] for chunk in second["chunks"])
    assert "Maria Blum" in texts and "Henk Visser" not in texts
    found = search(server, "Who made the clock?", count=50)["data"]
    assert not any("Henk Visser" in hit["text"] for hit in found), "the old version no longer answers"
    versions = httpx.get(f"{server.url}/api/documents/{first['id']}/versions").json()["data"]
    assert [v["number"] for v in versions] == [2, 1]
    change = httpx.get(f"{server.url}/api/documents/{first['id']}/versions/2/changes").json()
    assert any("Maria Blum" in text for text in change["added"])
    assert any("Henk Visser" in text for text in change["removed"])
    assert change["kept"] >= 1
    before = embedded(server)
    again = server.wait_document(server.upload("parish.md", new)["id"])
    assert (again["id"], again["version"], embedded(server)) == (first["id"], 2, before), "the same file is no change"


def test_a_version_that_cannot_be_read_leaves_the_old_one_in_force(server: Server) -> None:
    good = server.wait_document(server.upload("ledger.txt", b"The tithe was eleven geese.")["id"])
    bad = server.wait_document(server.upload("ledger.txt", b"\xff\xfe\x00")["id"])
    assert bad["id"] == good["id"] and bad["state"] == "failed" and bad["reason"]
    assert any("eleven geese" in hit["text"] for hit in search(server, "How many geese was the tithe?")["data"])


def test_a_document_may_be_in_several_collections_and_is_embedded_once(server: Server) -> None:
    document = server.wait_document(server.upload("abbot.md", b"# Abbot\n\nThe abbot was called Ruprecht.")["id"])
    before = embedded(server)
    url = f"{server.url}/api/documents/{document['id']}/collections"
    assert httpx.put(url, json={"collections": ["monks", "default"]}).status_code == 200
    inside = httpx.get(f"{server.url}/api/documents", params={"collection": "monks"}).json()["data"]
    assert [row["id"] for row in inside] == [document["id"]]
    assert embedded(server) == before
    found = search(server, "What was the abbot called?", collection="monks")
    assert {hit["document"] for hit in found["data"]} == {"abbot.md"}
    assert httpx.put(url, json={"collections": []}).status_code == 400
    unknown = httpx.get(f"{server.url}/api/search", params={"q": "x", "collection": "none"}, timeout=10)
    assert unknown.status_code == 400


def test_a_zip_archive_is_taken_in_file_by_file(server: Server) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a/first.md", "# First\n\nThe first fact is about otters.")
        archive.writestr("../../second.txt", "The second fact is about badgers.")
        archive.writestr("picture.png", b"\x89PNG")
        archive.writestr("__MACOSX/._first.md", "junk")
    answer = httpx.post(
        f"{server.url}/api/documents", files={"files": ("facts.zip", out.getvalue())}, timeout=60
    ).json()["data"]
    names = {row["name"]: row for row in answer if "id" in row}
    assert set(names) == {"first.md", "second.txt"}
    assert any("picture.png" in row["reason"] for row in answer if row["state"] == "failed")
    for row in names.values():
        assert server.wait_document(row["id"])["state"] == "ready"
    broken = httpx.post(f"{server.url}/api/documents", files={"files": ("x.zip", b"no zip")}, timeout=10)
    assert broken.status_code == 400 and "not a zip archive" in broken.json()["error"]["message"]


def test_two_uploads_of_one_file_at_once_are_one_document_and_one_embedding(server: Server) -> None:
    before, ids = embedded(server), []
    data = b"# Twin\n\nOnly once should this be read, however many send it."

    def send() -> None:
        ids.append(server.upload("twin.md", data)["id"])

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 1
    server.wait_document(ids[0])
    assert embedded(server) - before == 1


def test_reading_again_has_a_plan_and_computes_nothing_that_is_known(server: Server) -> None:
    document = server.wait_document(server.upload("plan.md", sections("A plan was made.", "It held."))["id"])
    plan = httpx.get(f"{server.url}/api/documents/reindex").json()
    assert document["id"] not in plan["documents"], "it was read as documents are read now"
    before = embedded(server)
    answer = httpx.post(f"{server.url}/api/documents/reindex", json={"documents": [document["id"]]})
    assert answer.status_code == 202
    again = server.wait_document(document["id"])
    assert again["state"] == "ready" and again["version"] == 1 and embedded(server) == before
    assert len(again["chunks"]) == document["chunk_count"]


def test_reading_can_be_cancelled_and_taken_up_again(server: Server) -> None:
    text = "\n\n".join(f"Paragraph {i} tells of the harvest at farm {i * 13}." for i in range(4000)).encode()
    document = server.upload("harvest.txt", text)
    server.wait_embedding(document["id"])
    state = httpx.post(f"{server.url}/api/documents/{document['id']}/cancel").json()
    assert state["state"] == "failed" and "Cancelled" in state["reason"]
    time.sleep(1.0)
    found = search(server, "What was the harvest at farm 26?", count=50)["data"]
    assert not any(hit["document"] == "harvest.txt" for hit in found)
    assert httpx.post(f"{server.url}/api/documents/{document['id']}/retry").status_code == 202
    server.wait_embedding(document["id"])
    httpx.post(f"{server.url}/api/documents/{document['id']}/cancel")
    assert server.upload("harvest.txt", text)["state"] == "queued", "uploaded again, it is read again"
    after = server.wait_document(server.upload("after the harvest.txt", b"The barn was full.")["id"], timeout=240)
    assert after["state"] == "ready"
    read = server.wait_document(document["id"], timeout=240)
    assert read["state"] == "ready" and read["next"] is not None
    rest = httpx.get(f"{server.url}/api/documents/{document['id']}", params={"after": read["next"], "limit": 3}).json()
    assert [chunk["position"] for chunk in rest["chunks"]] == [read["next"] + i for i in (1, 2, 3)]
    health = httpx.get(f"{server.url}/healthz", timeout=10).json()
    assert health["status"] == "ok" and health["reader"]["phase"] in ("idle", "reading")
    assert httpx.delete(f"{server.url}/api/documents/{document['id']}").status_code == 204
    assert httpx.get(f"{server.url}/api/documents/{document['id']}").status_code == 404


def test_numbers_and_texts_that_nobody_can_keep_are_refused(server: Server) -> None:
    document = server.wait_document(server.upload("odd.md", b"# Odd\n\nIt is odd.")["id"])
    url = f"{server.url}/api/documents/{document['id']}"
    headers = {"content-type": "application/json"}
    answers = [
        httpx.get(url, params={"version": 10**30}),
        httpx.get(f"{url}/versions/{10**30}/changes"),
        httpx.put(f"{url}/collections", content=b'{"collections": ["\\ud800"]}', headers=headers),
        httpx.post(f"{server.url}/api/documents/reindex", content=b'{"documents": ["\\ud800"]}', headers=headers),
    ]
    assert [answer.status_code for answer in answers] == [400] * 4, [answer.text for answer in answers]


def test_a_hop_over_a_mention_finds_what_the_question_does_not_say(server: Server) -> None:
    pages = {
        "Quill Prize.md": "# Quill Prize\n\nThe Quill Prize of 1931 went to the novelist of Harrow Lane.",
        "Harrow Lane.md": "# Harrow Lane\n\nA novel by Edda Marlow, who was born on the island of Sorn.",
        **{f"filler {i}.md": f"# Topic {i}\n\nA prize cow of 19{i:02} was kept near a lane." for i in range(40)},
    }
    for name, text in pages.items():
        server.wait_document(server.upload(name, text.encode())["id"])
    found = search(server, "Where was the winner of the Quill Prize of 1931 born?", mode="graph", count=3)
    hit = next(hit for hit in found["data"] if hit["document"] == "Harrow Lane.md")
    assert hit["edge"]["kind"] == "names" and hit["hop"] > 0
    assert found["visited"] < found["total"]
    dense = search(server, "Where was the winner of the Quill Prize of 1931 born?", mode="dense", count=3)
    assert dense["visited"] == dense["total"]


def test_the_same_text_gives_the_same_vector_to_the_bit(server: Server) -> None:
    httpx.patch(f"{server.url}/api/switches", json={"embedding_cache": False})
    try:
        def vector(inputs: list[str]) -> str:
            body = {"model": "all-minilm-l6-v2", "input": inputs, "encoding_format": "base64"}
            answer = httpx.post(f"{server.url}/v1/embeddings", json=body, timeout=60).json()
            return str(answer["data"][0]["embedding"])

        alone = vector(["The heron stands in the reeds."])
        assert vector(["The heron stands in the reeds.", *(f"word {'x ' * i}" for i in range(30))]) == alone
    finally:
        httpx.patch(f"{server.url}/api/switches", json={"embedding_cache": True})
