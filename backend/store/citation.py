"""What an answer quotes, as it is kept beside it and given out with it."""

from __future__ import annotations

from typing_extensions import TypedDict


class Citation(TypedDict):
    """A passage under the number by which the prompt names it."""

    number: int
    chunk_id: str
    document_id: str
    document: str
    position: int
    score: float
    text: str
