"""What the model is asked for a turn of a chat: its branch from the beginning, with passages or without."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

from backend.chats.settings import ChatOptions
from backend.chats.turns import alternating
from backend.errors import InvalidInputError
from backend.generation.grounded import grounded_request
from backend.generation.request import TextRequest, check_sampling, check_text
from backend.knowledge.retrieve import Retriever
from backend.store.tables.chats import CutAnswer, Message

LEAST_MORE = 16
"""Tokens for which it is worth writing an answer on."""


def check_question(text: str, options: ChatOptions) -> None:
    """Refuse what cannot be asked.

    Raises:
        InvalidInputError: the question is empty, no text, or the sampling means nothing.
    """
    if not text.strip():
        raise InvalidInputError("The message is empty.", param="messages")
    check_text(text, "messages")
    check_sampling(options.sampling, ())


def unmade_request(options: ChatOptions, tenant: str) -> TextRequest:
    """What stands for a request until it is made: who asks is known, also should it never be."""
    return TextRequest(source="console", tenant=tenant, key_id=options.key_id)


def answer_request(
    turns: Sequence[Message], options: ChatOptions, retriever: Retriever, *, tenant: str, fresh: bool
) -> TextRequest:
    """The request that answers the last of `turns`, which is a question; searches the documents where they are on."""
    messages = alternating(turns)
    question = messages[-1]["content"]
    common: dict[str, Any] = {
        "sampling": options.sampling, "max_tokens": options.max_tokens, "source": "console", "fresh": fresh,
        "tenant": tenant, "key_id": options.key_id, "question": question if len(messages) == 1 else "",
        "likeness_scope": f"{options.collection}\0{options.system}",
    }  # fmt: skip
    if options.collection is None:
        system = [{"role": "system", "content": options.system}] if options.system.strip() else []
        return TextRequest(messages=[*system, *messages], trim=True, **common)
    grounding = retriever.ground(
        question, messages[:-1], options.collection or None, options.system, options.sight,
        max_tokens=options.max_tokens, source="console", key_id=options.key_id,
    )  # fmt: skip
    return grounded_request(grounding, **common)


def continuing_request(
    cut: CutAnswer, message: Message, options: ChatOptions, *, context: int, tenant: str
) -> TextRequest:
    """The request that writes an answer on from its last token, over the prompt that it had.

    Raises:
        InvalidInputError: the context is full.
    """
    tokens = array("q", cut.tokens).tolist()
    room = context - len(tokens)
    if room < LEAST_MORE:
        raise InvalidInputError("Chat and answer fill the model's context; it cannot be written on.")
    return TextRequest(
        token_ids=tokens, continued=tuple(tokens[-cut.written :]), sampling=options.sampling,
        max_tokens=min(options.max_tokens or room, room), source="console", tenant=tenant, key_id=options.key_id,
        citations=tuple(message.details.get("citations", ())), notice=message.details.get("notice", ""),
    )  # fmt: skip
