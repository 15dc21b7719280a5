"""Reads a file of prompts: one a line, or a `prompt` per record of CSV, JSON or JSON Lines."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from backend.errors import InvalidInputError

MAX_PROMPTS = 100_000
FIELD = "prompt"


def read_prompts(name: str, data: bytes) -> list[str]:
    """Return the prompts of a file, in order.

    Raises:
        InvalidInputError: not UTF-8, not what its suffix says, without prompts, or too many.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{name} is not UTF-8 text (byte {error.start}).") from error
    suffix = Path(name).suffix.lower()
    if suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text))
        try:
            if FIELD not in (reader.fieldnames or []):
                raise InvalidInputError(f"{name} has no column named {FIELD!r}.")
            prompts = [row[FIELD] or "" for row in reader]
        except csv.Error as error:
            raise InvalidInputError(f"{name} is not valid CSV near line {reader.line_num}: {error}.") from error
    elif suffix in (".jsonl", ".ndjson"):
        prompts = [_prompt(_loads(line, f"{name}, line {n}"), f"{name}, line {n}") for n, line in _lines(text)]
    elif suffix == ".json":
        records = _loads(text, name)
        if not isinstance(records, list):
            raise InvalidInputError(f"{name} must hold a list of prompts.")
        prompts = [_prompt(record, f"{name}, entry {n}") for n, record in enumerate(records, 1)]
    else:
        prompts = [line for _, line in _lines(text)]
    prompts = [prompt.strip() for prompt in prompts if prompt.strip()]
    if not prompts:
        raise InvalidInputError(f"{name} holds no prompts.")
    if len(prompts) > MAX_PROMPTS:
        raise InvalidInputError(f"{name} holds {len(prompts):,} prompts; the limit is {MAX_PROMPTS:,}.")
    return prompts


def _lines(text: str) -> list[tuple[int, str]]:
    return [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]


def _loads(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{where} is not valid JSON: {error}.") from error


def _prompt(record: Any, where: str) -> str:
    if isinstance(record, dict):
        record = record.get(FIELD)
    if not isinstance(record, str):
        raise InvalidInputError(f"{where} has no text under {FIELD!r}.")
    return record
