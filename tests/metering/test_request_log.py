"""Each request that ended is one line of the log, under the name that the API returned, without a word of its text."""

from __future__ import annotations

import asyncio
import json
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from backend.api.deps import name_of
from backend.api.openai.schemas import CompletionBody
from backend.api.openai.stream import start
from backend.engine.messages import SamplingParams
from backend.generation.request import TextRequest
from backend.logs import JsonLines, TextLines
from backend.metering.request_log import log_request
from backend.settings import Settings
from tests.generation.conftest import Room

SECRET = "Seagulls at dawn"


@pytest.fixture
def lines(room: Room, caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What is logged of three requests: one answered, one that failed, one embedded; and of idle time."""
    room.ledger.on_entry(log_request)
    with caplog.at_level(logging.INFO, "tenfold.requests"):
        for ending in ("answer", "fail"):
            request = TextRequest(text=SECRET, source="api", key_id="key-1", sampling=SamplingParams(temperature=1.0))
            generation = room.service.start(room.service.prepare(request))
            getattr(room.engine, ending)(generation.id, f" {SECRET}")
        room.ledger.tick()
    return [record for record in caplog.records if record.name == "tenfold.requests"]


def test_a_request_is_one_line_of_json_with_what_it_took_and_cost(lines: list[logging.LogRecord]) -> None:
    answered, failed = (json.loads(JsonLines().format(record)) for record in lines)
    assert (answered["outcome"], failed["outcome"]) == ("stop", "error")
    assert answered["key_id"] == "key-1" and answered["source"] == "api" and answered["path"] == "realtime"
    assert answered["prompt_tokens"] > 0 < answered["output_tokens"] and float(answered["cost"]) == 0.5
    assert answered["total_ms"] >= 0 and answered["level"] == "INFO" and answered["time"].endswith("Z")
    assert failed["ttft_ms"] is None


def test_the_same_line_is_key_and_value_for_people(lines: list[logging.LogRecord]) -> None:
    text = TextLines().format(lines[0])
    assert " tenfold.requests INFO request request_id=" in text and " outcome=stop " in text and "\n" not in text
    assert "ttft_ms" not in TextLines().format(lines[1]), "there was no first token"


def test_no_line_holds_what_was_said(lines: list[logging.LogRecord]) -> None:
    assert len(lines) == 2
    assert not any(SECRET in formatter.format(record) for record in lines for formatter in (JsonLines(), TextLines()))


def test_a_log_that_cannot_be_written_stops_no_request(room: Room) -> None:
    def broken(_: Any) -> None:
        raise OSError("no space left")

    room.ledger.on_entry(broken)
    generation = room.service.start(room.service.prepare(TextRequest(text="Hello")))
    room.engine.answer(generation.id)
    assert generation.ended and generation.error is None


def test_a_traceback_stays_on_the_line_of_its_record() -> None:
    try:
        raise ValueError("a \n b")
    except ValueError as error:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "failed %s", ("here",), (ValueError, error, None))
    line = JsonLines().format(record)
    assert "\n" not in line and json.loads(line)["message"] == "failed here" and "a \n b" in json.loads(line)["error"]


def test_the_name_that_the_api_returns_finds_the_entry(room: Room) -> None:
    room.ledger.open(thread=False)
    runtime: Any = SimpleNamespace(settings=Settings(), generations=room.service)
    body = CompletionBody.model_validate({"model": "model", "prompt": "Hello", "n": 3})
    request = TextRequest(text="Hello", sampling=SamplingParams(temperature=1.0))
    generations = asyncio.run(start(runtime, body, "abc", [request]))
    assert [generation.id for generation in generations] == ["abc", "abc-1", "abc-2"]
    for generation in generations:
        room.engine.answer(generation.id)
    assert room.ledger.flush(60)
    assert {found.entry.request_id for found in room.ledger.queries.requests(search="abc")} == {
        "abc", "abc-1", "abc-2",
    }  # fmt: skip


@pytest.mark.parametrize("given", [None, "mine-1"])
def test_a_clients_own_name_begins_the_entrys_and_may_come_twice(given: str | None) -> None:
    state = {"request_id": given or "0" * 32, "named_by_client": given is not None}
    first, second = (asyncio.run(name_of(Request({"type": "http", "state": state}))) for _ in range(2))
    if given is None:
        assert first == second == "0" * 32, "the name is the answer's x-request-id"
    else:
        assert first.startswith("mine-1-") and second.startswith("mine-1-") and first != second
