"""Batches through the real `openai` client against a real server with the packaged models."""

from __future__ import annotations

import json
import sqlite3
import time
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from tests.api.test_openai import EMBEDDER, MODEL
from tests.batches.test_webhooks import EVERY, ear, unwrap
from tests.conftest import until

__all__ = ["ear"]
CHAT, PLAIN, EMBED = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"


@pytest.fixture(scope="module")
def client(server: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0, timeout=120)


def chat(words: str, **more: Any) -> dict[str, Any]:
    asked = [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": words}]
    return {"model": MODEL, "messages": asked, "temperature": 0, "max_tokens": 6, **more}


def upload(client: Any, endpoint: str, bodies: list[Any]) -> str:
    rows = [
        body if isinstance(body, str)
        else json.dumps({"custom_id": f"n{i}", "method": "POST", "url": endpoint, "body": body})
        for i, body in enumerate(bodies)
    ]  # fmt: skip
    return str(client.files.create(file=("lines.jsonl", "\n".join(rows).encode()), purpose="batch").id)


def run(client: Any, endpoint: str, bodies: list[Any], **more: Any) -> Any:
    made = client.batches.create(
        input_file_id=upload(client, endpoint, bodies), endpoint=endpoint, completion_window="24h", **more
    )
    return ended(client, made.id)


def ended(client: Any, batch_id: str) -> Any:
    def done() -> Any:
        batch = client.batches.retrieve(batch_id)
        return batch if batch.status in ("completed", "failed", "expired", "cancelled") else None

    return until(done, "the batch ends", 240)


def rows(client: Any, file_id: str) -> dict[str, dict[str, Any]]:
    return {row["custom_id"]: row for row in map(json.loads, client.files.content(file_id).text.splitlines())}


def test_chats_are_answered_as_they_would_be_alone(client: Any, server: Any) -> None:
    words = ["Count to five.", "Name a fruit.", "Say hello."]
    batch = run(
        client, CHAT, [*map(chat, words), chat("x", temperature=9), chat("x", stream=True), chat("y", n=2)],
        metadata={"of": "the test"}, output_expires_after={"anchor": "created_at", "seconds": 7200},
    )  # fmt: skip
    assert (batch.object, batch.status, batch.endpoint, batch.completion_window) == ("batch", "completed", CHAT, "24h")
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (6, 4, 2)
    assert batch.metadata == {"of": "the test"} and batch.model == MODEL and batch.errors is None
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    assert batch.expires_at == batch.created_at + 86400
    out = rows(client, batch.output_file_id)
    assert set(out) == {"n0", "n1", "n2", "n5"}
    for i, asked in enumerate(words):
        response = out[f"n{i}"]["response"]
        alone = client.chat.completions.create(**chat(asked))
        assert response["status_code"] == 200 and response["body"]["object"] == "chat.completion"
        assert response["body"]["choices"][0]["message"]["content"] == alone.choices[0].message.content
        assert response["body"]["service_tier"] == "flex"
    assert len(out["n5"]["response"]["body"]["choices"]) == 2
    refused = rows(client, batch.error_file_id)
    assert set(refused) == {"n3", "n4"}
    for row, param in zip(refused.values(), ("temperature", "stream"), strict=True):
        assert row["error"] is None and row["response"]["status_code"] == 400
        assert row["response"]["body"]["error"]["param"] == param
    usages = [row["response"]["body"]["usage"] for row in out.values()]
    assert batch.usage.output_tokens == sum(usage["completion_tokens"] for usage in usages) > 0
    assert batch.usage.total_tokens == sum(usage["total_tokens"] for usage in usages)
    assert client.files.retrieve(batch.output_file_id).purpose == "batch_output"
    kept = client.files.retrieve(batch.output_file_id)
    assert kept.expires_at == kept.created_at + 7200
    booked = of_ledger(server, [row["response"]["request_id"] for row in out.values()])
    assert booked == [("batch", "batch")] * 4, "each request is an entry, on the patient path"


def of_ledger(server: Any, names: list[str]) -> list[tuple[str, str]]:
    def found() -> list[tuple[str, str]]:
        with sqlite3.connect(server.data_dir / "tenfold.sqlite3") as database:
            marks = ",".join("?" * len(names))
            query = f"select source, path from ledger_entry where request_id in ({marks})"
            return database.execute(query, names).fetchall()

    until(lambda: len(found()) == len(names), "the entries are stored")
    return found()


def test_texts_are_continued_and_embedded(client: Any) -> None:
    plain = {"model": MODEL, "temperature": 0, "max_tokens": 4}
    batch = run(client, PLAIN, [{**plain, "prompt": "One, two,"}, {**plain, "prompt": ["One", "Two"]}])
    out = rows(client, batch.output_file_id)
    alone = client.completions.create(**plain, prompt="One, two,")
    assert out["n0"]["response"]["body"]["choices"][0]["text"] == alone.choices[0].text
    assert len(out["n1"]["response"]["body"]["choices"]) == 2
    inputs = ["a cat", ["a kitten", "a tax form"]]
    batch = run(client, EMBED, [{"model": EMBEDDER, "input": one} for one in [*inputs, ""]])
    assert (batch.request_counts.completed, batch.request_counts.failed) == (2, 1) and batch.usage.input_tokens > 0
    out = rows(client, batch.output_file_id)
    vector = client.embeddings.create(model=EMBEDDER, input="a cat", encoding_format="float").data[0].embedding
    assert np.array(out["n0"]["response"]["body"]["data"][0]["embedding"]) == pytest.approx(np.array(vector), abs=1e-6)
    assert len(out["n1"]["response"]["body"]["data"]) == 2


def test_faults_of_a_file_are_told_by_line(client: Any) -> None:
    batch = run(client, CHAT, [chat("x"), "{broken", chat("x", model="gpt-5")])
    assert batch.status == "failed" and batch.failed_at and batch.output_file_id is None
    assert [(error.line, error.code) for error in batch.errors.data] == [
        (2, "invalid_json_line"), (3, "model_not_found")
    ]
    assert batch.errors.object == "list"


def test_what_cannot_be_a_batch_is_refused(client: Any) -> None:
    file = upload(client, CHAT, [chat("x")])
    for wrong, param in (
        ({"endpoint": "/v1/responses"}, "endpoint"), ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"), ({"metadata": {"a": "x" * 513}}, "metadata.a"),
    ):  # fmt: skip
        asked = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h", **wrong}
        with pytest.raises(openai.BadRequestError) as refused:
            client.batches.create(**asked)
        assert refused.value.param == param
    with pytest.raises(openai.NotFoundError):
        client.batches.create(input_file_id="file-x", endpoint=CHAT, completion_window="24h")
    other = client.files.create(file=("x", b"x"), purpose="user_data")
    with pytest.raises(openai.BadRequestError, match="purpose"):
        client.batches.create(input_file_id=other.id, endpoint=CHAT, completion_window="24h")


def test_batches_are_listed_in_pages(client: Any) -> None:
    file = upload(client, CHAT, [chat("x")])
    made = [
        client.batches.create(input_file_id=file, endpoint=CHAT, completion_window="24h").id for _ in range(5)
    ]
    listed = [batch.id for batch in client.batches.list(limit=2)]
    assert listed[:5] == made[::-1] and len(listed) == len(set(listed))
    for batch_id in made:
        ended(client, batch_id)


def test_a_client_that_lost_the_answer_makes_no_second_batch(server: Any, client: Any) -> None:
    file = upload(client, CHAT, [chat("x")])
    lost = []

    def lose(response: httpx.Response) -> None:
        if not lost and response.request.method == "POST":
            lost.append(response.request)
            raise httpx.ReadTimeout("the answer is lost", request=response.request)

    with httpx.Client(event_hooks={"response": [lose]}) as transport:
        unlucky = openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=2, http_client=transport)
        batch = unlucky.batches.create(input_file_id=file, endpoint=CHAT, completion_window="24h")
    assert lost and [one.id for one in client.batches.list() if one.input_file_id == file] == [batch.id]
    ended(client, batch.id)


def test_a_batch_is_cancelled_and_keeps_what_was_answered(client: Any) -> None:
    file = upload(client, CHAT, [chat(f"Tell me of {i}.", max_tokens=60) for i in range(300)])
    made = client.batches.create(input_file_id=file, endpoint=CHAT, completion_window="24h")
    until(lambda: client.batches.retrieve(made.id).request_counts.completed, "something is answered", 120)
    assert client.batches.cancel(made.id).status in ("cancelling", "cancelled")
    batch = ended(client, made.id)
    assert batch.status == "cancelled" and batch.cancelled_at >= batch.cancelling_at
    done, rest = rows(client, batch.output_file_id), rows(client, batch.error_file_id)
    assert 0 < len(done) < 300 and len(done) + len(rest) == 300 and not done.keys() & rest.keys()
    assert {row["error"]["code"] for row in rest.values()} == {"batch_cancelled"}


def test_a_batch_whose_time_was_over_while_no_server_ran_expires_with_what_was_answered(own_server: Any) -> None:
    client = openai.OpenAI(base_url=f"{own_server.start().url}/v1", api_key="unused", timeout=120)
    file = upload(client, CHAT, [chat(f"Tell me of {i}.", max_tokens=60) for i in range(300)])
    made = client.batches.create(input_file_id=file, endpoint=CHAT, completion_window="24h")
    until(lambda: client.batches.retrieve(made.id).request_counts.completed, "something is answered", 120)
    own_server.kill()
    with sqlite3.connect(own_server.data_dir / "tenfold.sqlite3") as database:
        database.execute("update batch set expires = ? where id = ?", (time.time(), made.id))
    database.close()
    own_server.start()
    batch = ended(client, made.id)
    assert batch.status == "expired" and batch.expired_at >= batch.expires_at
    done, rest = rows(client, batch.output_file_id), rows(client, batch.error_file_id)
    assert done and len(done) + len(rest) == 300
    assert {row["error"]["code"] for row in rest.values()} == {"batch_expired"}


def test_a_batch_is_its_tenants_alone(guarded: Any) -> None:
    one, another = (guarded.client(guarded.key()) for _ in range(2))
    body = {"input_file_id": "", "endpoint": CHAT, "completion_window": "24h"}
    line = json.dumps({"custom_id": "a", "method": "POST", "url": CHAT, "body": chat("x")}).encode()
    file = one.post("/v1/files", files={"file": ("a.jsonl", line)}, data={"purpose": "batch"}).json()["id"]
    assert another.post("/v1/batches", json={**body, "input_file_id": file}).status_code == 404
    batch = one.post("/v1/batches", json={**body, "input_file_id": file}).json()
    assert another.get("/v1/batches").json()["data"] == []
    assert another.get(f"/v1/batches/{batch['id']}").status_code == 404
    assert another.post(f"/v1/batches/{batch['id']}/cancel").status_code == 404
    assert one.post(f"/v1/batches/{batch['id']}/cancel").json()["status"] == "cancelling"


def test_the_end_of_a_batch_is_told_to_an_address_that_the_client_added(own_server: Any, ear: Any) -> None:
    own_server.environment["TENFOLD_WEBHOOK_ORIGINS"] = json.dumps([ear.origin])
    client = openai.OpenAI(base_url=f"{own_server.start().url}/v1", api_key="unused", timeout=120)
    endpoint = client.webhooks.create(name="mine", url=f"{ear.origin}/hook", event_types=EVERY)
    batch = run(client, CHAT, [chat("x")])
    until(lambda: ear.heard, "it is told")
    event = unwrap(endpoint.signing_secret, ear.heard[0])
    assert (event.type, event.data.id) == ("batch.completed", batch.id)
    assert [one.id for one in client.webhooks.list()] == [endpoint.id]
    assert client.webhooks.retrieve(endpoint.id).signing_secret_hint
    assert client.webhooks.delete(endpoint.id).deleted
    with pytest.raises(openai.PermissionDeniedError, match="TENFOLD_WEBHOOK_ORIGINS"):
        client.webhooks.create(name="x", url="https://example.com/", event_types=EVERY)


def test_a_batch_waits_for_a_budget_says_so_and_goes_on(own_server: Any) -> None:
    client = openai.OpenAI(base_url=f"{own_server.start().url}/v1", api_key="unused", timeout=120)
    limits = f"{own_server.url}/api/limits"
    httpx.patch(limits, json={"day_dollars": 0}).raise_for_status()
    file = upload(client, CHAT, [chat("x"), chat("y")])
    made = client.batches.create(input_file_id=file, endpoint=CHAT, completion_window="24h")
    waits = until(lambda: client.batches.retrieve(made.id).waiting_for, "it waits")
    assert "$0" in waits and client.batches.retrieve(made.id).status == "in_progress"
    embedded = upload(client, EMBED, [{"model": EMBEDDER, "input": "a cat"}])
    second = client.batches.create(input_file_id=embedded, endpoint=EMBED, completion_window="24h")
    assert "$0" in until(lambda: client.batches.retrieve(second.id).waiting_for, "so do embeddings")
    httpx.patch(limits, json={"day_dollars": None}).raise_for_status()
    for batch_id in (made.id, second.id):
        batch = ended(client, batch_id)
        assert batch.status == "completed" and batch.request_counts.failed == 0 and batch.waiting_for is None
