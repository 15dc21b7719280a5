"""The API through the real `openai` client against a real server."""

from __future__ import annotations

import base64
import threading
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from tests.conftest import until

MODEL, EMBEDDER = "smollm2-135m-instruct", "all-minilm-l6-v2"
ASK = [{"role": "user", "content": "Count from one to ten."}]


@pytest.fixture(scope="module")
def client(server: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0, timeout=120)


def test_models_are_listed(client: Any) -> None:
    assert {model.id for model in client.models.list()} == {MODEL, EMBEDDER}
    assert client.models.retrieve(MODEL).id == MODEL


def test_chat_answers_and_counts(client: Any) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ASK, temperature=0, max_tokens=12)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    again = client.chat.completions.create(model=MODEL, messages=ASK, temperature=0, max_tokens=12)
    assert again.usage.prompt_tokens_details.cached_tokens > 0
    assert again.choices[0].message.content == answer.choices[0].message.content


def test_a_stream_gives_the_same_text(client: Any) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=ASK, temperature=0, max_tokens=24)
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=ASK, temperature=0, max_tokens=24, stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason


def test_stop_strings_end_with_stop(client: Any) -> None:
    whole = client.completions.create(model=MODEL, prompt="1, 2, 3, 4,", temperature=0, max_tokens=24)
    stop = whole.choices[0].text[6:9]
    cut = client.completions.create(model=MODEL, prompt="1, 2, 3, 4,", temperature=0, max_tokens=24, stop=[stop])
    assert cut.choices[0].finish_reason == "stop"
    assert cut.choices[0].text == whole.choices[0].text[: whole.choices[0].text.index(stop)]


def test_end_of_sequence_ends_with_stop(client: Any) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Name three fruits."}], temperature=0, max_tokens=200
    )
    assert answer.choices[0].finish_reason == "stop"


def test_n_answers_with_seeds(client: Any) -> None:
    def ask() -> list[str]:
        answer = client.chat.completions.create(
            model=MODEL, messages=ASK, temperature=1.0, max_tokens=10, n=3, seed=5
        )
        return [choice.message.content for choice in answer.choices]

    first = ask()
    assert len(first) == 3 and len(set(first)) > 1
    assert ask() == first


def test_completions_take_lists_and_tokens(client: Any) -> None:
    answer = client.completions.create(model=MODEL, prompt=["One", "Two"], temperature=0, max_tokens=4)
    assert [choice.index for choice in answer.choices] == [0, 1]
    tokens = client.completions.create(model=MODEL, prompt=[504, 3575, 282], temperature=0, max_tokens=4)
    assert tokens.choices[0].text
    stream = client.completions.create(model=MODEL, prompt="One", temperature=0, max_tokens=4, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == answer.choices[0].text


def test_logprobs(client: Any) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=ASK, temperature=0, max_tokens=3, logprobs=True, top_logprobs=2
    )
    content = answer.choices[0].logprobs.content
    assert len(content) == 3 and all(len(entry.top_logprobs) == 2 for entry in content)
    assert all(entry.logprob <= 0 and entry.token == entry.top_logprobs[0].token for entry in content)


def test_embeddings(client: Any) -> None:
    answer = client.embeddings.create(model=EMBEDDER, input=["a cat", "a kitten", "a tax form"])
    vectors = np.array([row.embedding for row in answer.data])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-4)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    raw = client.embeddings.create(model=EMBEDDER, input="a cat", encoding_format="base64")
    assert np.frombuffer(base64.b64decode(raw.data[0].embedding), "<f4") == pytest.approx(vectors[0], abs=0)


BAD: dict[str, tuple[dict[str, Any], int, str]] = {
    "unknown model": ({"model": "gpt-17"}, 404, "model_not_found"),
    "no messages": ({"messages": []}, 400, ""),
    "wrong type": ({"messages": "hello"}, 400, ""),
    "wrong role": ({"messages": [{"role": "wizard", "content": "x"}]}, 400, ""),
    "hot": ({"temperature": 9}, 400, ""),
    "text temperature": ({"temperature": "warm"}, 400, ""),
    "top_p of zero": ({"top_p": 0}, 400, ""),
    "no tokens": ({"max_tokens": 0}, 400, ""),
    "too many tokens": ({"max_tokens": 1_000_000}, 400, "context_length_exceeded"),
    "over-long": ({"messages": [{"role": "user", "content": "word " * 9000}]}, 400, "context_length_exceeded"),
    "tools": ({"tools": [{"type": "function"}]}, 400, ""),
    "n of 99": ({"n": 99}, 400, ""),
    "no such collection": ({"documents": "no-such-collection"}, 400, ""),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_get_a_clear_error_in_openais_shape(server: Any, name: str) -> None:
    change, status, code = BAD[name]
    body = {"model": MODEL, "messages": ASK, "max_tokens": 4, **change}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=30)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["message"] and error["type"] and {"param", "code"} <= set(error)
    if code:
        assert error["code"] == code


@pytest.mark.parametrize(
    "raw", [b'{"model":"smollm2-135m-instruct","messages":[{"role":"user","content":"x"}],"temperature":NaN}',
            b"not json", b'{"model":"\xff\xfe"}', b"", b"[1,2]"],
    ids=["NaN", "not JSON", "invalid UTF-8", "empty", "a list"],
)  # fmt: skip
def test_bodies_that_are_no_request(server: Any, raw: bytes) -> None:
    answer = httpx.post(
        f"{server.url}/v1/chat/completions", content=raw, headers={"content-type": "application/json"}, timeout=20
    )
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


def test_out_of_vocabulary_tokens_are_named(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="99999"):
        client.completions.create(model=MODEL, prompt=[1, 99_999], max_tokens=4)


def test_closing_a_stream_aborts_the_generation(server: Any, client: Any) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=ASK, temperature=1.5, max_tokens=1500, stream=True, seed=1
    )
    next(iter(stream))
    next(iter(stream))
    stream.close()
    until(lambda: httpx.get(f"{server.url}/healthz").json()["queue"]["running"] == 0, "it is aborted", timeout=10)


def test_many_at_once_are_batched_and_all_answered(server: Any, client: Any) -> None:
    texts: dict[int, str] = {}

    def ask(i: int) -> None:
        answer = client.completions.create(model=MODEL, prompt=f"Number {i} is", temperature=0, max_tokens=16)
        texts[i] = answer.choices[0].text

    before = httpx.get(f"{server.url}/healthz").json()["stats"]["steps"]
    threads = [threading.Thread(target=ask, args=(i,)) for i in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 24
    steps = httpx.get(f"{server.url}/healthz").json()["stats"]["steps"] - before
    assert steps < 24 * 16 / 2, "requests were served one after the other"


def test_metrics_and_openapi(server: Any) -> None:
    text = httpx.get(f"{server.url}/metrics").text
    for name in ("gen_ai_server_time_to_first_token_seconds_bucket", "vllm:generation_tokens_total",
                 "tenfold_cost_dollars_total"):  # fmt: skip
        assert name in text
    paths = httpx.get(f"{server.url}/api/openapi.json").json()["paths"]
    assert {"/v1/chat/completions", "/v1/embeddings", "/api/documents", "/api/switches", "/healthz"} <= set(paths)
    assert "swagger-ui" in httpx.get(f"{server.url}/api/docs").text
    assert httpx.get(f"{server.url}/api/docs/static/swagger-ui-bundle.js").status_code == 200


def test_unknown_paths_are_404_in_the_same_shape(server: Any) -> None:
    answer = httpx.get(f"{server.url}/v1/nothing")
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "not_found"
