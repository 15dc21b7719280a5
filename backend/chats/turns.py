"""The turns of a conversation: their rows, what a chat template takes of them, and what an answer leaves in its row."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlmodel import Session, col, select

from backend.chats.attribution import Mark
from backend.errors import InvalidInputError
from backend.generation.stream import Generation
from backend.metering.account import Account
from backend.store.ids import new_id
from backend.store.tables.chats import CutAnswer, Message, MessageState, Speaker

CUT_SHORT = ("length", "abort")
"""Why an answer ended that can be written on."""


@dataclass(frozen=True)
class Writing:
    """A generation that writes a message.

    Attributes:
        generation: what is written.
        conversation_id: where.
        question: what is answered.
        fingerprint: of the model that writes, once it does.
        account: what was paid for what the message held before, where it is written on.
        left_out: turns that did not fit then.
        marks: which passage supports which sentence, once that is known.
    """

    generation: Generation
    conversation_id: str
    question: str = ""
    fingerprint: str = ""
    account: Account | None = None
    left_out: int = 0
    marks: tuple[Mark, ...] = ()


def alternating(turns: Sequence[Message]) -> list[dict[str, str]]:
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
    """The messages of a conversation on all its branches, as they came."""
    query = select(Message).where(Message.conversation_id == conversation_id).order_by(col(Message.position))
    return list(session.exec(query).all())


def placed(session: Session, known: list[Message], turn: Message) -> Message:
    """Add a message behind all that are known of its conversation; two servers cannot both."""
    turn.position = known[-1].position + 1 if known else 0
    session.add(turn)
    session.flush()
    known.append(turn)
    return turn


def question(conversation_id: str, text: str, parent_id: str | None) -> Message:
    """A question that follows a message; None: that begins its conversation."""
    return Message(
        id=new_id(), conversation_id=conversation_id, parent_id=parent_id, position=0, role=Speaker.USER, text=text
    )


def answer_to(turn: Message | None) -> Message:
    """The answer that is going to be written to a question.

    Raises:
        InvalidInputError: it is none.
    """
    if turn is None or turn.role is not Speaker.USER:
        raise InvalidInputError("There is no question to answer.")
    return Message(
        id=new_id(), conversation_id=turn.conversation_id, parent_id=turn.id, position=0, role=Speaker.ASSISTANT,
        state=MessageState.WRITING,
    )  # fmt: skip


def record(message: Message, writing: Writing) -> None:
    """Put what a generation wrote into its message."""
    generation = writing.generation
    details: dict[str, Any] = {"finish_reason": generation.finish_reason}
    if generation.citations:
        details["citations"] = list(generation.citations)
    if writing.marks:
        details["marks"] = [asdict(mark) for mark in writing.marks]
    if generation.cache_mark is not None:
        details["answer_cache"] = generation.cache_mark.as_dict()
    if account := joined(writing.account, generation.account):
        details["account"] = asdict(account)
    if left_out := max(generation.left_out, writing.left_out):
        details["left_out"] = left_out
    if generation.request.notice:
        details["notice"] = generation.request.notice
    message.text = generation.text.strip()
    if generation.error:
        message.state = MessageState.FAILED
    else:
        message.state = MessageState.STOPPED if generation.finish_reason == "abort" else MessageState.DONE
    message.error = generation.error.message if generation.error else ""
    message.details = details


def cut_answer(message_id: str, writing: Writing) -> CutAnswer | None:
    """What it takes to write an answer on; None where it came to its end."""
    generation = writing.generation
    written = [piece.token_id for piece in generation.pieces if piece.token_id >= 0]
    if generation.error or generation.finish_reason not in CUT_SHORT or not written:
        return None
    return CutAnswer(
        message_id=message_id, fingerprint=writing.fingerprint, text=generation.text,
        tokens=array("q", [*generation.prompt_ids, *written]).tobytes(),
        written=len(generation.request.continued) + len(written),
    )  # fmt: skip


def joined(before: Account | None, then: Account | None) -> Account | None:
    """The account of an answer that was written in two goes: its first token came in the first, its tokens in both."""
    if before is None or then is None:
        return then or before
    tokens = before.output_tokens + then.output_tokens
    latency = before.latency + then.latency
    writing = latency - (before.ttft or 0.0) - (then.ttft or 0.0)
    return replace(
        then, ttft=before.ttft, latency=latency, output_tokens=tokens,
        tokens_per_second=tokens / writing if writing > 0 else then.tokens_per_second,
        prompt_tokens=before.prompt_tokens, cached_tokens=before.cached_tokens,
        compute_seconds=before.compute_seconds + then.compute_seconds,
        cost=before.cost + then.cost, saved=before.saved + then.saved,
    )  # fmt: skip
