"""Answers are given again only where they would come out the same, and say so; likeness knows a negation."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

import httpx
import pytest

from backend.generation.likeness import alike
from backend.settings import ROOT
from tests.conftest import Server, until


@pytest.fixture(scope="module", autouse=True)
def mill(server: Server) -> None:
    text = b"# Mill\n\nThe mill grinds rye on Thursdays at 9:00."
    server.wait_document(server.upload("mill.md", text, "mill")["id"])


def ask(server: Server, question: str, **body: Any) -> dict[str, Any]:
    request = {"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": question}],
               "temperature": 0, "max_tokens": 24, **body}  # fmt: skip
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=request, timeout=120)
    assert answer.status_code == 200, answer.text
    out: dict[str, Any] = answer.json()
    return out


def kept(server: Server) -> int:
    with sqlite3.connect(server.data_dir / "tenfold.sqlite3") as database:
        return int(database.execute("select count(*) from answer").fetchone()[0])


def ask_and_keep(server: Server, question: str, **body: Any) -> dict[str, Any]:
    """Ask what was not asked before, and wait until the answer is kept, which is done in the background."""
    before = kept(server)
    out = ask(server, question, **body)
    until(lambda: kept(server) > before, "the answer is kept")
    return out


def message(answer: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = answer["choices"][0]["message"]
    return out


def test_the_same_request_is_answered_again_without_the_engine(server: Server) -> None:
    first = ask_and_keep(server, "Name a colour.")
    busy = httpx.get(f"{server.url}/healthz").json()["stats"]["busy_seconds"]
    again = ask(server, "Name a colour.")
    assert message(again)["content"] == message(first)["content"]
    assert message(again)["answer_cache"] == {"kind": "exact"} and "answer_cache" not in message(first)
    everything = {"prompt_tokens_details": {"cached_tokens": first["usage"]["prompt_tokens"]}}
    assert again["usage"] == {**first["usage"], **everything}
    assert httpx.get(f"{server.url}/healthz").json()["stats"]["busy_seconds"] == busy


@pytest.mark.parametrize(
    "change", [{"max_tokens": 5}, {"stop": ["e"]}, {"temperature": 0.7}, {"frequency_penalty": 1.0}, {"logprobs": True}]
)
def test_another_request_is_not(server: Server, change: dict[str, Any]) -> None:
    fruit = f"Name a fruit, not {change}."
    ask_and_keep(server, fruit)
    assert "answer_cache" not in message(ask(server, fruit, **change))


def test_a_seeded_draw_is_repeatable_and_an_unseeded_one_is_not(server: Server) -> None:
    ask_and_keep(server, "Name a bird.", temperature=0.9, seed=3)
    assert "answer_cache" in message(ask(server, "Name a bird.", temperature=0.9, seed=3))
    ask(server, "Name a bird.", temperature=0.9)
    assert "answer_cache" not in message(ask(server, "Name a bird.", temperature=0.9))


def test_off_is_off(server: Server) -> None:
    ask_and_keep(server, "Name a tree.")
    httpx.patch(f"{server.url}/api/switches", json={"answer_cache": False})
    try:
        assert "answer_cache" not in message(ask(server, "Name a tree."))
    finally:
        httpx.patch(f"{server.url}/api/switches", json={"answer_cache": True})


def test_a_new_document_makes_grounded_answers_anew(server: Server) -> None:
    question = "What does the mill grind?"
    ask_and_keep(server, question, documents="mill")
    assert "answer_cache" in message(ask(server, question, documents="mill"))
    server.wait_document(server.upload("other.md", b"# Other\n\nNothing of note.")["id"])
    assert "answer_cache" not in message(ask(server, question, documents="mill"))


def test_a_like_question_is_answered_the_same_only_where_asked_for_and_says_so(server: Server) -> None:
    ask_and_keep(server, "At what time does the mill open?", documents="mill")
    assert "answer_cache" not in message(ask_and_keep(server, "At which time does the mill open?", documents="mill"))
    httpx.patch(f"{server.url}/api/switches", json={"semantic_cache": True})
    try:  # what is kept from now on can be compared
        first = ask_and_keep(server, "At what time does the mill open?", documents="mill", max_tokens=25)
        like = message(ask(server, "What time does the mill open at?", documents="mill", max_tokens=25))
        assert like["answer_cache"]["kind"] == "semantic" and float(like["answer_cache"]["similarity"]) >= 0.95
        assert like["answer_cache"]["question"] == "At what time does the mill open?"
        assert like["content"] == message(first)["content"] and like["citations"]
        streamed = {
            "model": "smollm2-135m-instruct", "temperature": 0, "max_tokens": 25, "documents": "mill", "stream": True,
            "messages": [{"role": "user", "content": "What time does the mill open at?"}],
        }  # fmt: skip
        lines = httpx.post(f"{server.url}/v1/chat/completions", json=streamed, timeout=120).text.split("\n\n")
        deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in lines if line.startswith("data: {")]
        assert [d["answer_cache"] for d in deltas if "answer_cache" in d] == [like["answer_cache"]]
        assert [d["citations"] for d in deltas if "citations" in d] == [like["citations"]]
        negated = message(ask(server, "At what time does the mill not open?", documents="mill", max_tokens=25))
        assert "answer_cache" not in negated
    finally:
        httpx.patch(f"{server.url}/api/switches", json={"semantic_cache": False})


def test_nothing_about_the_question_in_the_documents_is_said(server: Server) -> None:
    answer = message(ask(server, "Which chess opening did Kasparov prefer against Karpov?", documents="mill"))
    assert answer["content"] == "I don't know from these documents." and "citations" not in answer


@pytest.mark.parametrize("pair", json.loads((ROOT / "data/lab/like_questions.json").read_text())["different"][:18])
def test_a_negation_a_number_a_name_or_an_opposite_is_not_alike(pair: list[str]) -> None:
    assert not alike(*pair)


def test_other_wording_is_alike() -> None:
    pairs = json.loads((ROOT / "data/lab/like_questions.json").read_text())["same"]
    assert sum(alike(*pair) for pair in pairs) >= 0.8 * len(pairs)
