"""A line of a batch's file: how lines are found in it, read, and put next to those that begin alike.

Knows nothing of what a request's body means; who answers says.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from backend.errors import InvalidInputError, UnavailableError
from backend.generation.stream import Generation

LONGEST_LINE = 10 << 20
"""Bytes, as of a request that comes alone."""
BEGINNINGS = (64, 256, 1024, 4096, 16384)
"""Letters of a request's text by which it is sorted: those that share more of them stand closer together."""
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Found:
    """Where a line is: its number from 1, its first byte and how many; `text` without them where it is too long."""

    number: int
    start: int
    length: int
    text: bytes | None


@dataclass(frozen=True, slots=True)
class Line:
    """A request that can be run: where it is in its file, and where among the others it belongs."""

    number: int
    start: int
    length: int
    place: bytes


@dataclass(frozen=True, slots=True)
class LineRequest:
    """A request of a batch, as who answers it is given it.

    Attributes:
        endpoint: a path below the API's root, as "/v1/embeddings".
        body: as it would be sent there.
        name: of the request, in the ledger.
        key_id, tenant: whose it is.
    """

    endpoint: str
    body: dict[str, Any]
    name: str
    key_id: str
    tenant: str


@dataclass(frozen=True, slots=True)
class Answered:
    """A response's body, with what its tokens and its computing were; `cost` in US dollars."""

    body: Mapping[str, Any]
    cost: float


@dataclass(frozen=True, slots=True)
class Begun:
    """A request that is being answered.

    Attributes:
        generations: that have to end before it is; none, where it is answered.
        answer: makes the response once they have; raises the error that it has instead.
    """

    generations: Sequence[Generation]
    answer: Callable[[], Answered]


Answering = Callable[[LineRequest], Begun]
"""Begins to answer a request. May block; raises a TenfoldError where it cannot be answered."""


def found_lines(file: BinaryIO) -> Iterator[Found]:
    """The lines of a file that are not empty, one in memory at a time."""
    number, start = 0, 0
    while piece := file.readline(LONGEST_LINE + 1):
        number += 1
        length, whole = len(piece), len(piece) <= LONGEST_LINE
        ended = piece.endswith(b"\n")
        while not ended and (more := file.readline(LONGEST_LINE)):
            length, whole, ended = length + len(more), False, more.endswith(b"\n")
        text = piece.removeprefix(BOM) if number == 1 else piece
        if not whole or text.strip():
            yield Found(number, start, length, text if whole else None)
        start += length


def read_line(text: bytes) -> dict[str, Any]:
    """The object that a line is.

    Raises:
        InvalidInputError: it is none.
    """
    try:
        value = json.loads(text.removeprefix(BOM))
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"This line is not valid JSON: {error}.", code="invalid_json_line") from error
    if not isinstance(value, dict):
        raise InvalidInputError("This line is not a JSON object.", code="invalid_json_line")
    return value


def place_of(body: Mapping[str, Any]) -> bytes:
    """Sorts requests by their beginnings: of two that share one, as much of their places is alike as they share."""
    asked = body.get("messages", body.get("prompt"))
    if asked is None:
        return bytes(4 * len(BEGINNINGS))
    text = asked if isinstance(asked, str) else json.dumps(asked)
    beginnings = (text[:letters].encode(errors="replace") for letters in BEGINNINGS)
    return b"".join(hashlib.blake2b(beginning, digest_size=4).digest() for beginning in beginnings)


def ended_well(generations: Sequence[Generation]) -> None:
    """Raise why one of these has no answer; one that was cut off, by a server that stops, has to be asked again."""
    for generation in generations:
        if generation.error is not None:
            raise generation.error
        if generation.finish_reason == "abort":
            raise UnavailableError("The engine gave this request up.")
