"""Files of prompts are read in every format, and refused with the line that is wrong."""

from __future__ import annotations

import pytest

from backend.errors import InvalidInputError
from backend.jobs.prompts import read_prompts


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.txt", b"one\n\ntwo\n"), ("a.csv", b"id,prompt\n1,one\n2,two\n"),
     ("a.jsonl", b'{"prompt": "one"}\n{"prompt": "two"}\n'), ("a.json", b'["one", {"prompt": "two"}]')],
)  # fmt: skip
def test_formats(name: str, data: bytes) -> None:
    assert read_prompts(name, data) == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [("a.txt", b"", "no prompts"), ("a.txt", b"\xff\xfe\xff", "UTF-8"), ("a.csv", b"x,y\n1,2\n", "no column"),
     ("a.jsonl", b'{"prompt": "one"}\nnope\n', "line 2"), ("a.json", b'{"prompt": "x"}', "list"),
     ("a.jsonl", b'{"prompt": 5}', "no text"), ("a.json", b"[" * 100_000, "not valid JSON"),
     ("a.csv", b'id,prompt\n1,"' + b"x" * 200_000, "not valid CSV near line")],
)  # fmt: skip
def test_what_cannot_be_read_is_named(name: str, data: bytes, why: str) -> None:
    with pytest.raises(InvalidInputError, match=why):
        read_prompts(name, data)
