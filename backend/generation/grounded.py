"""The request to generate from what retrieval made of a question. Says what it needs of that, not who makes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from backend.generation.request import TextRequest
from backend.store.citation import Citation


class Grounded(Protocol):
    """Messages that quote passages, or a reply where nothing was found; see `TextRequest` for each."""

    @property
    def messages(self) -> list[dict[str, str]]: ...  # noqa: D102

    @property
    def passages(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def citations(self) -> Sequence[Citation]: ...  # noqa: D102

    @property
    def corpus(self) -> str: ...  # noqa: D102

    @property
    def reply(self) -> str | None: ...  # noqa: D102

    @property
    def notice(self) -> str: ...  # noqa: D102

    @property
    def search_seconds(self) -> float: ...  # noqa: D102


def grounded_request(grounded: Grounded, **more: Any) -> TextRequest:
    """A request over passages; `more` are the other fields of `TextRequest`."""
    return TextRequest(
        messages=grounded.messages, passages=grounded.passages, citations=tuple(grounded.citations),
        corpus=grounded.corpus, reply=grounded.reply, notice=grounded.notice,
        search_seconds=grounded.search_seconds, **more,
    )  # fmt: skip
