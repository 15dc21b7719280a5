"""The turns of a conversation: their rows, what a chat template takes of them, and what an answer leaves in its row."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlmodel import Session, col, select

from backend.errors import InvalidInputError
from backend.generation.stream import Generation
from backend.store.tables.chats import Message, MessageState, Speaker


def alternating(turns: list[Message]) -> list[dict[str, str]]:
    """Turns as chat templates take them: a question whose answer failed before its first word joins the next one."""
    messages: list[dict[str, str]] = []
    for turn in turns:
        if not turn.text:
            continue
        if messages and messages[-1]["role"] == turn.role:
            messages[-1]["content"] += f"\n\n{turn.text}"
        else:
            messages.append({"role": turn.role.value, "content": turn.text})
    return messages


def rows(session: Session, conversation_id: str) -> list[Message]:
    """The messages of a conversation, in order."""
    query = select(Message).where(Message.conversation_id == conversation_id).order_by(col(Message.position))
    return list(session.exec(query).all())


def place_answer(session: Session, turns: list[Message]) -> Message:
    """The row of the answer that follows, in the transaction of its question."""
    if not turns or turns[-1].role is not Speaker.USER:
        raise InvalidInputError("There is no question to answer.")
    session.flush()  # what was deleted gives its place before it is taken
    answer = Message(
        conversation_id=turns[-1].conversation_id, position=turns[-1].position + 1, role=Speaker.ASSISTANT,
        state=MessageState.WRITING,
    )
    session.add(answer)
    return answer


def record(message: Message, generation: Generation) -> None:
    """Put what a generation wrote into its message."""
    details: dict[str, Any] = {"finish_reason": generation.finish_reason}
    if generation.citations:
        details["citations"] = list(generation.citations)
    if generation.cache_mark is not None:
        details["answer_cache"] = generation.cache_mark.as_dict()
    if generation.account is not None:
        details["account"] = asdict(generation.account)
    if generation.left_out:
        details["left_out"] = generation.left_out
    if generation.request.notice:
        details["notice"] = generation.request.notice
    message.text = generation.text.strip()
    if generation.error:
        message.state = MessageState.FAILED
    else:
        message.state = MessageState.STOPPED if generation.finish_reason == "abort" else MessageState.DONE
    message.error = generation.error.message if generation.error else ""
    message.details = details
