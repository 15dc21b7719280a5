"""A dead engine comes back by itself; a killed server loses nothing that was finished."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from typing import Any

import httpx
import pytest

from tests.conftest import until

MODEL = "smollm2-135m-instruct"


def ask(server: Any, **change: Any) -> httpx.Response:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "max_tokens": 8}
    return httpx.post(f"{server.url}/v1/chat/completions", json={**body, **change}, timeout=60)


def test_a_killed_engine_says_so_and_comes_back(own_server: Any) -> None:
    own_server.start()
    document = own_server.wait_document(own_server.upload("keep.md", b"The ledger is kept in the cellar.")["id"])
    body = {
        "model": MODEL, "messages": [{"role": "user", "content": "Tell a long story."}], "temperature": 1.2,
        "max_tokens": 1500, "stream": True, "seed": 3,
    }
    lines = []
    with httpx.stream("POST", f"{own_server.url}/v1/chat/completions", json=body, timeout=60) as stream:
        for line in stream.iter_lines():
            lines.append(line)
            if len(lines) == 20:
                os.kill(own_server.engine_pid(), signal.SIGKILL)
    assert any("started again" in line for line in lines), "the stream ended without saying why"
    assert httpx.get(f"{own_server.url}/_stcore/health").status_code == 200, "the console went down with the engine"
    own_server.wait_ready(60)
    health = httpx.get(f"{own_server.url}/healthz").json()
    assert health["restarts"] == 1
    assert ask(own_server).status_code == 200
    assert httpx.get(f"{own_server.url}/api/documents/{document['id']}").json()["state"] == "ready"


def test_a_killed_server_goes_on_where_it_was(own_server: Any) -> None:
    own_server.start()
    ready = own_server.wait_document(own_server.upload("one.md", b"The first fact is about herons.")["id"])
    text = "\n\n".join(f"Paragraph {i} tells of the tides at station {i * 7}." for i in range(1500)).encode()
    half = own_server.upload("two.txt", text)
    httpx.patch(f"{own_server.url}/api/switches", json={"max_batch": 7})
    own_server.wait_embedding(half["id"])
    own_server.kill()
    own_server.start()
    assert httpx.get(f"{own_server.url}/api/switches").json()["switches"]["max_batch"] == 7
    assert own_server.wait_document(ready["id"])["state"] == "ready"
    assert own_server.wait_document(half["id"], timeout=120)["state"] == "ready"
    answer = ask(own_server, documents=True, messages=[{"role": "user", "content": "What is the first fact about?"}])
    assert answer.json()["choices"][0]["message"]["citations"][0]["document"] == "one.md"
    with sqlite3.connect(own_server.data_dir / "tenfold.sqlite3") as database:
        doubled = database.execute(
            "select count(*) - count(distinct document_id || '/' || position) from chunk"
        ).fetchone()[0]
    assert doubled == 0


def test_a_second_server_in_the_same_folder_is_refused(own_server: Any, cache_dir: Any) -> None:
    own_server.start()
    from tests.conftest import Server

    second = Server(own_server.data_dir, cache_dir)
    second.log = own_server.data_dir / "second.log"
    second.start(ready=False)
    assert second.process is not None
    second.process.wait(30)
    assert "Another Tenfold server works in" in second.log.read_text()


def test_switches_act_while_serving(server: Any) -> None:
    url = f"{server.url}/api/switches"
    httpx.patch(url, json={"answer_cache": False})
    before = ask(server).json()["choices"][0]["message"]["content"]
    usual = httpx.get(url).json()["variant"]
    other = "int8" if usual == "fp32" else "fp32"  # "auto" is fp32 where the processor has no bf16
    httpx.patch(url, json={"quantization": other})

    def applied() -> bool:
        assert ask(server, max_tokens=2).status_code == 200, "serving stopped while weights were loaded"
        return bool(httpx.get(url).json()["variant"] == other)

    until(applied, f"the weights are {other}")
    assert ask(server).status_code == 200
    httpx.patch(url, json={"prefix_cache": False})
    assert ask(server).json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    httpx.patch(url, json={"prefix_cache": True, "quantization": "auto"})
    until(lambda: httpx.get(url).json()["variant"] == usual, "the weights are as before")
    assert httpx.get(f"{server.url}/healthz").json()["variant"] == usual
    assert ask(server).json()["choices"][0]["message"]["content"] == before
    httpx.patch(url, json={"answer_cache": True})
    for wrong in ({"max_batch": 0}, {"nonsense": 1}, {"prefix_cache": "yes"}, {"quantization": "int3"}):
        answer = httpx.patch(url, json=wrong)
        assert answer.status_code == 400 and answer.json()["error"]["message"]


@pytest.mark.parametrize("damage", ["lost", "corrupt"])
def test_the_index_is_rebuilt_without_computing_an_embedding(own_server: Any, damage: str) -> None:
    own_server.start()
    own_server.wait_document(own_server.upload("mill.md", b"# Mill\n\nThe mill grinds rye on Thursdays.")["id"])
    own_server.stop()
    index = own_server.data_dir / "index"
    if damage == "lost":
        shutil.rmtree(index)
    else:
        for file in index.rglob("*"):
            if file.is_file():
                file.write_bytes(b"this is no index" * 100)
    own_server.start()
    question = [{"role": "user", "content": "What does the mill grind?"}]
    answer = ask(own_server, documents=True, messages=question)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["citations"][0]["document"] == "mill.md"
    embedded = httpx.get(f"{own_server.url}/healthz").json()["stats"]["embedded_texts"]
    assert embedded == 1, "only the question had to be embedded"
