"""Whether a file is one that can be run: read once from beginning to end, a line at a time, with what is wrong where.

What is wrong with a request's body alone is that request's failure, when its turn comes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from backend.batches.line import LONGEST_LINE, Found, Line, found_lines, place_of, read_line
from backend.errors import InvalidInputError

MOST_ERRORS = 100
"""That are told of one file."""
LONGEST_ID = 512
"""Characters of a custom_id."""


@dataclass
class Checked:
    """What was found so far: how many requests, and what is wrong, as OpenAI's `errors.data`."""

    total: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)


class FileCheck:
    """Reads one file.

    Args:
        endpoint: that every line must name.
        model: that every line must name.
        most: lines.
        stopped: whether nobody wants to know any more; asked at every line.
    """

    def __init__(self, endpoint: str, model: str, most: int, stopped: Callable[[], bool] = lambda: False) -> None:
        self._endpoint, self._model, self._most, self._stopped = endpoint, model, most, stopped
        self._seen: set[bytes] = set()  # hashes of names: these themselves could be of any size
        self.checked = Checked()

    def lines(self, file: BinaryIO) -> Iterator[Line]:
        """The requests that can be run; what cannot is in `checked`, which is whole when this has ended."""
        for found in found_lines(file):
            if self._stopped():
                return
            self.checked.total += 1
            if self.checked.total > self._most:
                return self._note(None, "too_many_tasks", f"The file has more than {self._most:,} requests.", None)
            try:
                body = self._body(found)
            except InvalidInputError as error:
                self._note(found.number, error.code or "invalid_request", error.message, error.param)
                if len(self.checked.errors) >= MOST_ERRORS:
                    return None
                continue
            yield Line(found.number, found.start, found.length, place_of(body))
        if not self.checked.total:
            self._note(None, "empty_file", "The file has no requests.", "input_file_id")
        return None

    def _note(self, line: int | None, code: str, message: str, param: str | None) -> None:
        self.checked.errors.append({"code": code, "line": line, "message": message, "param": param})

    def _body(self, found: Found) -> dict[str, Any]:
        """A line's request; raises InvalidInputError, with a code of OpenAI's, for what is none."""
        if found.text is None:
            raise InvalidInputError(
                f"This line has {found.length:,} bytes; at most {LONGEST_LINE:,} are taken.", code="invalid_request"
            )
        line = read_line(found.text)
        self._name(line.get("custom_id"))
        if line.get("method") != "POST":
            raise InvalidInputError('method must be "POST".', param="method", code="invalid_method")
        if line.get("url") != self._endpoint:
            raise InvalidInputError(
                f"url must be the batch's endpoint, {self._endpoint}.", param="url", code="url_mismatch"
            )
        body = line.get("body")
        if not isinstance(body, dict):
            raise InvalidInputError("body must be an object, as it is sent to the endpoint.", param="body")
        model = body.get("model")
        if not isinstance(model, str):
            raise InvalidInputError("body.model must name the model.", param="body.model")
        if model.casefold() != self._model.casefold():
            raise InvalidInputError(
                f"The model {model[:100]!r} is not served at this endpoint. Served: {self._model}.",
                param="body.model", code="model_not_found",
            )  # fmt: skip
        return body

    def _name(self, custom_id: Any) -> None:
        if not isinstance(custom_id, str) or not 0 < len(custom_id) <= LONGEST_ID:
            raise InvalidInputError(f"custom_id must be a text of 1 to {LONGEST_ID} characters.", param="custom_id")
        try:
            digest = hashlib.blake2b(custom_id.encode(), digest_size=16).digest()
        except UnicodeEncodeError as error:
            raise InvalidInputError("custom_id holds half of a character.", param="custom_id") from error
        if digest in self._seen:
            raise InvalidInputError(
                f"custom_id {custom_id!r} is that of an earlier line.", param="custom_id", code="duplicate_custom_id"
            )
        self._seen.add(digest)
