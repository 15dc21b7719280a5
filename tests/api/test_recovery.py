"""A dead engine comes back by itself; a killed server loses nothing that was finished."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Server, until

MODEL = "smollm2-135m-instruct"
ENGINE_KILLS = int(os.environ.get("TENFOLD_ENGINE_KILLS", "2"))
STREAMS = 8
PARAGRAPHS = 2000
"""Several times as many chunks as are embedded at a time, so that a kill falls between."""


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path, chat_folder: Path) -> Iterator[Server]:
    """A server that may be killed; whoever kills it starts it again."""
    running = Server(tmp_path_factory.mktemp("mortal"), cache_dir).start()
    yield running
    running.stop()


def ask(server: Any, **change: Any) -> httpx.Response:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "max_tokens": 8}
    return httpx.post(f"{server.url}/v1/chat/completions", json={**body, **change}, timeout=60)


def all_chunks(server: Server, document: str) -> list[dict[str, Any]]:
    chunks: list[dict[str, Any]] = []
    page: dict[str, Any] = {"next": -1}
    while page["next"] is not None:
        params = {"after": page["next"], "limit": 100}
        page = httpx.get(f"{server.url}/api/documents/{document}", params=params, timeout=30).json()
        chunks += page["chunks"]
    return chunks


def embeddings_kept(server: Server) -> int:
    with sqlite3.connect(server.data_dir / "tenfold.sqlite3") as database:
        return int(database.execute("select count(*) from embedding").fetchone()[0])


class Stream(threading.Thread):
    """Tells stories until it is told to stop, and keeps how each ended."""

    def __init__(self, server: Server, number: int) -> None:
        super().__init__(daemon=True)
        self.server, self.number = server, number
        self.endings: list[str] = []
        self.tokens = 0
        self.enough = threading.Event()

    def run(self) -> None:
        while not self.enough.is_set():
            self.endings.append(self._tell(len(self.endings)))

    def _tell(self, turn: int) -> str:
        body = {
            "model": MODEL, "messages": [{"role": "user", "content": f"Tell a long story, {self.number}."}],
            "temperature": 1.2, "max_tokens": 150, "stream": True, "seed": turn,
        }  # fmt: skip
        url = f"{self.server.url}/v1/chat/completions"
        last = ""
        with httpx.stream("POST", url, json=body, timeout=120) as stream:
            if stream.status_code != 200:
                stream.read()
                self.enough.wait(0.2)
                return f"{stream.status_code} {stream.json()['error']['message']}"
            for line in stream.iter_lines():
                if line:
                    last = line if line != "data: [DONE]" else f"{last} and done"
                    self.tokens += 1
        return last


@pytest.mark.timeout(600 + 60 * ENGINE_KILLS)
def test_a_killed_engine_says_so_and_comes_back(mortal: Server) -> None:
    document = mortal.wait_document(mortal.upload("keep.md", b"The ledger is kept in the cellar.")["id"])
    streams = [Stream(mortal, number) for number in range(STREAMS)]
    for stream in streams:
        stream.start()
    for kill in range(1, ENGINE_KILLS + 1):
        before = [stream.tokens for stream in streams]

        def moving(before: list[int] = before) -> bool:
            return all(stream.tokens > old + 5 for stream, old in zip(streams, before, strict=True))

        until(moving, "all streams are being written", 120)
        os.kill(mortal.engine_pid(), signal.SIGKILL)
        assert httpx.get(f"{mortal.url}/_stcore/health").status_code == 200, "the console went down with the engine"
        until(lambda n=kill: httpx.get(f"{mortal.url}/healthz").json()["restarts"] == n, "the death was noticed")
        mortal.wait_ready(60)
    for stream in streams:
        stream.enough.set()
    for stream in streams:
        stream.join(180)
        assert not stream.is_alive(), "a stream hangs"
    endings = [ending for stream in streams for ending in stream.endings]
    whole = [ending for ending in endings if ending.endswith("and done") and '"finish_reason"' in ending]
    broken = [ending for ending in endings if "error" in ending or ending.startswith("503")]
    assert len(whole) + len(broken) == len(endings), "a stream ended in neither an answer nor an error"
    assert len([ending for ending in broken if "started again" in ending]) >= ENGINE_KILLS, "a death was not said"
    assert ask(mortal).status_code == 200
    assert mortal.document(document["id"])["state"] == "ready"


def test_a_second_server_in_the_same_folder_is_refused(mortal: Server, cache_dir: Path) -> None:
    second = Server(mortal.data_dir, cache_dir)
    second.log = mortal.data_dir / "second.log"
    second.start(ready=False)
    assert second.process is not None
    second.process.wait(60)
    assert "Another Tenfold server works in" in second.log.read_text()


def test_a_killed_server_goes_on_where_it_was(mortal: Server) -> None:
    ready = mortal.wait_document(mortal.upload("one.md", b"The first fact is about herons.")["id"])
    text = "\n\n".join(f"Paragraph {i} tells of the tides at station {i * 7}." for i in range(PARAGRAPHS)).encode()
    half = mortal.upload("two.txt", text)
    httpx.patch(f"{mortal.url}/api/switches", json={"max_batch": 7})
    before = embeddings_kept(mortal)
    until(lambda: embeddings_kept(mortal) > before, "some of it is embedded")
    assert mortal.document(half["id"])["state"] == "embedding"
    mortal.kill()
    mortal.start()
    assert httpx.get(f"{mortal.url}/api/switches").json()["switches"]["max_batch"] == 7
    assert mortal.document(ready["id"])["state"] == "ready"
    whole = mortal.wait_document(half["id"], timeout=120)
    assert whole["state"] == "ready"
    embedded = httpx.get(f"{mortal.url}/healthz").json()["stats"]["embedded_texts"]
    assert embedded < whole["chunk_count"], "what had been embedded before the kill was embedded again"
    answer = ask(mortal, documents=True, messages=[{"role": "user", "content": "What is the first fact about?"}])
    assert answer.json()["choices"][0]["message"]["citations"][0]["document"] == "one.md"
    chunks = all_chunks(mortal, half["id"])
    assert [chunk["position"] for chunk in chunks] == list(range(whole["chunk_count"]))
    assert f"station {7 * (PARAGRAPHS - 1)}." in chunks[-1]["text"]


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
