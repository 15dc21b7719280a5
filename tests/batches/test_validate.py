"""What is wrong with a batch's file, told by line, before anything of it is run."""

from __future__ import annotations

import io
import json
import tracemalloc
from typing import Any

import pytest

from backend.batches import line as reading
from backend.batches.line import found_lines, place_of
from backend.batches.validate import MOST_ERRORS, FileCheck
from backend.store.tables.batches import BatchStatus
from tests.batches.standin import ENDPOINT, MODEL, Bench, line, lines
from tests.jobs.standin import StandIn


def check(content: bytes, most: int = 1000) -> tuple[list[int], list[dict[str, Any]]]:
    check = FileCheck(ENDPOINT, MODEL, most)
    good = [found.number for found in check.lines(io.BytesIO(content))]
    return good, check.checked.errors


def jsonl(*objects: Any) -> bytes:
    return b"".join((one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n" for one in objects)


def test_each_fault_is_told_with_its_line() -> None:
    good, errors = check(
        b"\xef\xbb\xbf" + jsonl(
            line("a", "one"), b"not json", b"", [1], line("a", "twice"), line("b", "x", url="/v1/embeddings"),
            line("c", "x", method="GET"), line("d", "x", body=None), line("e", "x", body={"model": "other"}),
            line("", "x"), line("f", "x", custom_id=7), line("g", "\ud800"), b'{"custom_id": "\\ud800"}',
            line("h", "x", body={"prompt": "x"}), b"[" * 100_000,
        )
    )  # fmt: skip
    assert good == [1, 12], "a body that is wrong is its own request's failure"
    assert [(error["line"], error["code"]) for error in errors] == [
        (2, "invalid_json_line"), (4, "invalid_json_line"), (5, "duplicate_custom_id"), (6, "url_mismatch"),
        (7, "invalid_method"), (8, "invalid_request"), (9, "model_not_found"), (10, "invalid_request"),
        (11, "invalid_request"), (13, "invalid_request"), (14, "invalid_request"), (15, "invalid_json_line"),
    ]  # fmt: skip
    assert errors[3]["param"] == "url" and ENDPOINT in errors[3]["message"]


def test_a_file_without_requests_and_one_with_too_many() -> None:
    assert [error["code"] for error in check(b"\n \n")[1]] == ["empty_file"]
    good, errors = check(jsonl(*lines("one", "two", "three")), most=2)
    assert good == [1, 2] and [error["code"] for error in errors] == ["too_many_tasks"]
    assert len(check(b"x\n" * 500)[1]) == MOST_ERRORS


def test_a_line_of_any_length_is_read_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LONGEST_LINE", 1000)
    content = b"x" * 5_000_000 + b"\n" + jsonl(line("a", "one")) + b"y" * 1001
    tracemalloc.start()
    found = list(found_lines(io.BytesIO(content)))
    peak = tracemalloc.get_traced_memory()[1] - len(content)
    tracemalloc.stop()
    assert [(one.number, one.text is None) for one in found] == [(1, True), (2, False), (3, True)]
    assert peak < 1_000_000
    for one in found:
        assert content[one.start : one.start + one.length].strip(b"xy\n") in (b"", (one.text or b"").strip())


def test_places_are_as_alike_as_the_beginnings() -> None:
    def shared(first: str, second: str) -> int:
        one, other = (place_of({"prompt": text}) for text in (first, second))
        return next((i for i in range(0, len(one), 4) if one[i : i + 4] != other[i : i + 4]), len(one)) // 4

    base = "x" * 20_000
    assert shared(base, base) == len(reading.BEGINNINGS)
    assert shared(base, base[:300] + "y" * 20_000) == 2
    assert shared(base, "y" + base) == 0
    system = {"role": "system", "content": "Be brief. " * 20}
    chats = [place_of({"messages": [system, {"role": "user", "content": name}]}) for name in ("one", "two")]
    assert chats[0] != chats[1] and chats[0][:4] == chats[1][:4]
    assert place_of({"input": "a"}) == place_of({"input": "b"}), "embeddings share nothing"


def test_a_batch_with_faults_is_not_run(bench: Bench, answers: StandIn) -> None:
    ended = bench.ended(bench.create(jsonl(line("a", "one"), b"{")))
    assert ended.status is BatchStatus.FAILED and not answers.asked
    assert [(error["line"], error["code"]) for error in ended.errors] == [(2, "invalid_json_line")]
    assert ended.output_file_id is None and ended.error_file_id is None
