"""Log probabilities as chat and as plain completions report them."""

from __future__ import annotations

from typing import Any

from backend.engine.messages import Logprob
from backend.generation.stream import Generation, Piece
from backend.models.text import TextModel, TokenOffsets


def chat_logprobs(text: TextModel, pieces: list[Piece]) -> dict[str, Any]:
    """In the shape of chat completions."""

    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        token = text.token_text(token_id)
        return {"token": token, "logprob": logprob, "bytes": list(token.encode())}

    content = [
        {
            **entry(piece.token_id, piece.logprob.chosen),
            "top_logprobs": [entry(token, value) for token, value in piece.logprob.top],
        }
        for piece in pieces
        if piece.logprob is not None
    ]
    return {"content": content, "refusal": None}


class PlainLogprobs:
    """In the shape of plain completions: four lists, of which a stream sends a piece at a time.

    Args:
        text: the model's tokenizer.
        start: characters of the returned text before the answer's first token.
    """

    def __init__(self, text: TextModel, start: int = 0) -> None:
        self._text = text
        self._offsets = TokenOffsets(text, start)

    def prompt(self, generation: Generation, shown: str) -> dict[str, Any]:
        """Of a prompt that is given back as `shown`; its first token has none, as nothing stands before it."""
        ids = generation.prompt_ids
        if generation.request.text is not None:
            offsets = self._text.offsets(shown)
        else:
            counted = TokenOffsets(self._text, special=True)
            offsets = [counted.push(token) for token in ids]
        return self._lists(list(zip(ids, generation.prompt_logprobs, offsets, strict=True)))

    def answer(self, pieces: list[Piece]) -> dict[str, Any]:
        """Of the next pieces of the answer."""
        return self._lists(
            [(p.token_id, p.logprob, self._offsets.push(p.token_id)) for p in pieces if p.logprob is not None]
        )

    def _lists(self, rows: list[tuple[int, Logprob | None, int]]) -> dict[str, Any]:
        return {
            "tokens": [self._text.token_text(token) for token, _, _ in rows],
            "token_logprobs": [None if logprob is None else logprob.chosen for _, logprob, _ in rows],
            "top_logprobs": [None if logprob is None else self._top(token, logprob) for token, logprob, _ in rows],
            "text_offset": [offset for _, _, offset in rows],
        }

    def _top(self, chosen: int, logprob: Logprob) -> dict[str, float]:
        """By text; of tokens with the same text the likeliest. The chosen one is always among them."""
        top: dict[str, float] = {}
        for token, value in (*logprob.top, (chosen, logprob.chosen)):
            text = self._text.token_text(token)
            top[text] = max(value, top.get(text, value))
        return top
