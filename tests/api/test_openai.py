"""The API through the real `openai` client against a real server."""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from tests.conftest import ROOT, until

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
    "no completion tokens": ({"max_completion_tokens": 0}, 400, ""),
    "a bias that is no number": ({"logit_bias": {"5": "much"}}, 400, ""),
    "a bias for no token": ({"logit_bias": {"the": 5}}, 400, ""),
    "a bias beyond the vocabulary": ({"logit_bias": {"99999": 5}}, 400, ""),
    "too strong a bias": ({"logit_bias": {"5": 101}}, 400, ""),
    "more at least than at most": ({"min_tokens": 5}, 400, ""),
    "a tier that is not sold": ({"service_tier": "priority"}, 400, ""),
    "a user who says nothing": ({"messages": [{"role": "user"}]}, 400, ""),
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


UNHEEDED: dict[str, Any] = {
    "tools": [{"type": "function"}],
    "functions": [{"name": "f"}],
    "tool_choice": "required",
    "response_format": {"type": "json_object"},
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy", "format": "wav"},
    "prediction": {"type": "content", "content": "x"},
    "reasoning_effort": "high",
    "guided_json": {"type": "object"},
    "continue_final_message": True,
    "echo": True,
    "skip_special_tokens": False,
    "best_of": True,
    "stream_options": {"include_usage": True},
}


@pytest.mark.parametrize("name", UNHEEDED)
def test_what_would_change_an_answer_and_is_not_done_is_refused_by_name(server: Any, name: str) -> None:
    body = {"model": MODEL, "messages": ASK, "max_tokens": 1, name: UNHEEDED[name]}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=30)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == name, answer.text
    assert name in answer.json()["error"]["message"]


def test_what_changes_nothing_is_ignored(client: Any) -> None:
    answer = client.chat.completions.create(
        model=MODEL.upper(), messages=ASK, max_tokens=1, tool_choice="auto", tools=[], store=True, user="me",
        metadata={"a": "b"}, modalities=["text"], response_format={"type": "text"}, parallel_tool_calls=True,
        extra_body={"something_new": 1, "continue_final_message": False},
    )  # fmt: skip
    assert answer.model == MODEL and answer.service_tier == "default" and answer.system_fingerprint.startswith("fp_")


UNREADABLE: dict[str, tuple[Any, str]] = {
    "an image": ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "image_url"),
    "a sound": ({"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "input_audio"}]}, "input_audio"),
    "a file": ({"role": "user", "content": [{"type": "file", "file": {}}]}, "file"),
    "a tool's result": ({"role": "tool", "content": "5", "tool_call_id": "c"}, "tools"),
    "a tool's call": ({"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]}, "tool_calls"),
    "nothing": ({"role": "user", "content": None}, "no content"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_messages_that_cannot_be_read_are_refused_as_what_they_are(server: Any, name: str) -> None:
    message, said = UNREADABLE[name]
    body = {"model": MODEL, "messages": [*ASK, message], "max_tokens": 1}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=30)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert said in error["message"] and error["param"].startswith("messages.1"), error


SURROGATES: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "chat": ("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "a\ud800"}]},
             "messages.0.content"),
    "part": ("POST", "/v1/chat/completions",
             {"messages": [{"role": "user", "content": [{"type": "text", "text": "\udfff"}]}]},
             "messages.0.content.0.text"),
    "stop": ("POST", "/v1/chat/completions", {"messages": ASK, "stop": ["\ud800"]}, "stop.0"),
    "completion": ("POST", "/v1/completions", {"prompt": ["fine", "\ud800"]}, "prompt.1"),
    "embedding": ("POST", "/v1/embeddings", {"input": "\ud800"}, "input"),
    "model": ("POST", "/v1/embeddings", {"model": "\ud800", "input": "x"}, "model"),
    "reindex": ("POST", "/api/documents/reindex", {"documents": ["\ud800"]}, "documents.0"),
    "collections": ("PUT", "/api/documents/none/collections", {"collections": ["\ud800"]}, "collections.0"),
    "switches": ("PATCH", "/api/switches", {"quantization": "\ud800"}, "quantization"),
}  # fmt: skip


@pytest.mark.parametrize("name", SURROGATES)
def test_half_a_character_is_refused_with_the_fields_name(server: Any, name: str) -> None:
    method, path, body, field = SURROGATES[name]
    if path.startswith("/v1"):
        body = {"model": EMBEDDER if "embed" in path else MODEL, **body}
    answer = httpx.request(
        method, server.url + path, content=json.dumps(body), headers={"content-type": "application/json"}, timeout=30
    )
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == field and field in answer.json()["error"]["message"]


def test_numbers_too_large_for_a_database_are_refused(server: Any) -> None:
    for path in (f"/api/documents/none?version={10**30}", f"/api/documents/none/versions/{10**30}/changes"):
        assert httpx.get(server.url + path).status_code == 400


def test_a_body_that_does_not_say_it_is_json_is_told_so(server: Any) -> None:
    answer = httpx.post(f"{server.url}/v1/chat/completions", content=b"{}", headers={"content-type": "text/plain"})
    assert answer.status_code == 415 and "content-type: application/json" in answer.json()["error"]["message"]


def test_models_answer_to_head(server: Any) -> None:
    answer = httpx.head(f"{server.url}/v1/models")
    assert answer.status_code == 200 and not answer.content


# ---- steering ----------------------------------------------------------------------------------------------------


def test_a_banned_token_does_not_come(client: Any) -> None:
    def first(**change: Any) -> Any:
        answer = client.chat.completions.create(
            model=MODEL, messages=ASK, temperature=0, max_tokens=1, logprobs=True, top_logprobs=2, **change
        )
        return answer.choices[0].logprobs.content[0]

    likeliest, second = first().top_logprobs
    (banned,) = ids_of(likeliest.token)
    assert first(logit_bias={str(banned): -100}).token == second.token


def ids_of(token: str) -> list[int]:
    from tokenizers import Tokenizer

    from backend.models.checkpoint import resolve
    from backend.packaged import CHAT_MODEL

    folder = resolve(CHAT_MODEL, Path(os.environ.get("TENFOLD_TEST_CACHE", ROOT / "data/var/test-cache")))
    return Tokenizer.from_file(str(folder / "tokenizer.json")).encode(token, add_special_tokens=False).ids


def test_vllms_fields_are_obeyed(client: Any) -> None:
    ask: dict[str, Any] = {"model": MODEL, "prompt": "One, two,", "temperature": 0}
    plain = client.completions.create(**ask, max_tokens=6, logprobs=0)
    stop = ids_of(plain.choices[0].logprobs.tokens[2])
    cut = client.completions.create(**ask, max_tokens=6, extra_body={"stop_token_ids": stop})
    assert cut.choices[0].finish_reason == "stop"
    assert cut.choices[0].text == "".join(plain.choices[0].logprobs.tokens[: cut.usage.completion_tokens - 1])
    late = client.completions.create(**ask, max_tokens=6, extra_body={"stop_token_ids": stop, "min_tokens": 5})
    assert late.usage.completion_tokens >= 5
    fruits = [{"role": "user", "content": "Name three fruits."}]
    on = client.chat.completions.create(
        model=MODEL, messages=fruits, temperature=0, max_tokens=150, extra_body={"ignore_eos": True}
    )
    assert on.usage.completion_tokens == 150


def test_flex_is_answered_as_such(client: Any) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=2, service_tier="flex")
    assert answer.service_tier == "flex" and answer.usage.completion_tokens == 2
    assert client.completions.create(
        model=MODEL, prompt="One", max_tokens=1, extra_body={"service_tier": "auto"}
    ).model_extra["service_tier"] == "default"


# ---- lm-eval's way of asking -------------------------------------------------------------------------------------


def test_a_prompt_is_given_back_with_its_log_probabilities(client: Any) -> None:
    prompt = "The harbour wakes – before the sun."
    asked = client.completions.create(model=MODEL, prompt=prompt, echo=True, logprobs=2, max_tokens=0, temperature=0)
    choice, read = asked.choices[0], asked.choices[0].logprobs
    assert choice.text == prompt and asked.usage.completion_tokens == 0
    assert len(read.tokens) == len(read.text_offset) == asked.usage.prompt_tokens
    assert read.token_logprobs[0] is None and read.top_logprobs[0] is None
    assert all(value < 0 for value in read.token_logprobs[1:])
    both = zip(read.top_logprobs[1:], read.token_logprobs[1:], strict=True)
    assert all(max(top.values()) >= value for top, value in both)
    for at, (offset, token) in enumerate(zip(read.text_offset, read.tokens, strict=True)):
        if "\ufffd" not in token:
            assert prompt[offset:].startswith(token), f"token {at}"
    further = client.completions.create(model=MODEL, prompt=prompt, echo=True, logprobs=2, max_tokens=3, temperature=0)
    both = further.choices[0]
    assert both.text.startswith(prompt) and len(both.logprobs.tokens) == len(read.tokens) + 3
    assert both.logprobs.token_logprobs[1 : len(read.tokens)] == pytest.approx(read.token_logprobs[1:], abs=1e-3)
    for offset, token in zip(both.logprobs.text_offset[-3:], both.logprobs.tokens[-3:], strict=True):
        assert both.text[offset:].startswith(token)


def test_a_prompt_of_token_ids_is_given_back_as_text(client: Any) -> None:
    ids = [504, 3575, 282, 4649]
    asked = client.completions.create(model=MODEL, prompt=[ids], echo=True, logprobs=1, max_tokens=1, temperature=0)
    read = asked.choices[0].logprobs
    assert len(read.tokens) == 5 and asked.choices[0].text == "".join(read.tokens)
    assert read.text_offset == [sum(map(len, read.tokens[:i])) for i in range(5)]
    only = client.completions.create(model=MODEL, prompt=[ids], echo=True, max_tokens=0)
    assert only.choices[0].text == "".join(read.tokens[:4]) and only.choices[0].logprobs is None
    stream = client.completions.create(model=MODEL, prompt=[ids], echo=True, max_tokens=1, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == asked.choices[0].text


@pytest.mark.parametrize(
    "change", [{"max_tokens": 0}, {"echo": True, "logprobs": 1, "stream": True}, {"suffix": "x"}, {"best_of": 2},
               {"max_tokens": -1, "echo": True}], ids=str,
)  # fmt: skip
def test_completions_that_are_not_done_are_refused(server: Any, change: dict[str, Any]) -> None:
    answer = httpx.post(f"{server.url}/v1/completions", json={"model": MODEL, "prompt": "One", **change}, timeout=30)
    assert answer.status_code == 400 and answer.json()["error"]["param"] in change, answer.text


# ---- what is counted, and bounded --------------------------------------------------------------------------------


def test_equal_prompts_are_counted_each_and_n_answers_once(client: Any) -> None:
    one = client.completions.create(model=MODEL, prompt="aaa bbb ccc", max_tokens=1).usage
    three = client.completions.create(model=MODEL, prompt=["aaa bbb ccc"] * 3, max_tokens=1).usage
    assert three.prompt_tokens == 3 * one.prompt_tokens and three.completion_tokens == 3
    drawn = client.completions.create(model=MODEL, prompt="aaa bbb ccc", max_tokens=1, n=3, temperature=1).usage
    assert drawn.prompt_tokens == one.prompt_tokens and drawn.completion_tokens == 3
    both = client.completions.create(model=MODEL, prompt=["aaa bbb ccc"] * 2, max_tokens=1, n=2, temperature=1).usage
    assert both.prompt_tokens == 2 * one.prompt_tokens and both.completion_tokens == 4


def test_one_request_cannot_start_thousands(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="at most 128") as refused:
        client.completions.create(model=MODEL, prompt=["a"] * 65, n=2, max_tokens=1)
    assert refused.value.param == "prompt"


def test_an_overflow_is_worded_as_clients_look_for_it(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match=r"maximum context length is .* However, you requested") as refused:
        client.completions.create(model=MODEL, prompt="word " * 9000, max_tokens=4)
    assert refused.value.code == "context_length_exceeded"


# ---- streams -----------------------------------------------------------------------------------------------------


def test_a_stream_opens_with_its_first_token(client: Any) -> None:
    """The answer's first two events come together, however long the prompt takes to be read."""
    long = [{"role": "user", "content": "".join(f"Fact {i} is odd. " for i in range(120)) + str(time.time())}]
    began = time.monotonic()
    stream = client.chat.completions.create(model=MODEL, messages=long, temperature=0, max_tokens=2, stream=True)
    came = [(time.monotonic() - began, chunk.choices[0].delta) for chunk in stream]
    assert came[0][1].role == "assistant" and came[1][1].content
    assert came[1][0] - came[0][0] < 0.5 * came[0][0], "the opening did not wait for the first token"


def test_a_streamed_answer_from_the_cache_says_so(server: Any, client: Any) -> None:
    server.wait_document(server.upload("weir.md", b"# Weir\n\nThe weir at Alder Mill was built in 1884.")["id"])
    ask: dict[str, Any] = {
        "model": MODEL, "messages": [{"role": "user", "content": "When was the weir at Alder Mill built?"}],
        "temperature": 0, "max_tokens": 8, "extra_body": {"documents": True},
    }  # fmt: skip
    first = client.chat.completions.create(**ask).choices[0].message
    assert "answer_cache" not in first.model_extra

    def again() -> Any:
        message = client.chat.completions.create(**ask).choices[0].message
        return message if "answer_cache" in message.model_extra else None

    whole = until(again, "the answer is kept")
    chunks = list(client.chat.completions.create(**ask, stream=True))
    opening = chunks[0].choices[0].delta.model_extra
    assert opening["answer_cache"] == whole.model_extra["answer_cache"]
    assert opening["citations"] == whole.model_extra["citations"] == first.model_extra["citations"]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == first.content


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
