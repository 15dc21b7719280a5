"""The messages of a conversation as a tree: an edited question or another answer begins a branch beside the first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from backend.store.tables.chats import Message


@dataclass(frozen=True)
class Branch:
    """One way through a conversation.

    Attributes:
        turns: from the first question to the end of the branch.
        beside: for each turn's id the ids of all that stand in its place, itself included, as they came.
    """

    turns: list[Message] = field(default_factory=list)
    beside: dict[str, tuple[str, ...]] = field(default_factory=dict)


def branch(messages: Sequence[Message], leaf: str) -> Branch:
    """The branch that ends at `leaf`; where that is none of the messages, the one that was written last.

    Args:
        messages: all of a conversation, as they came.
        leaf: id of the branch's last message.
    """
    by_id = {message.id: message for message in messages}
    at = by_id.get(leaf) or (messages[-1] if messages else None)
    turns: list[Message] = []
    while at is not None:
        turns.append(at)
        at = by_id.get(at.parent_id or "")
    turns.reverse()
    children = _children(messages)
    return Branch(turns, {turn.id: tuple(child.id for child in children[turn.parent_id]) for turn in turns})


def latest_leaf(messages: Iterable[Message], message_id: str) -> str:
    """Where a branch through a message goes on to: at each fork the way that was begun last."""
    children = _children(messages)
    at = message_id
    while following := children.get(at):
        at = following[-1].id
    return at


def _children(messages: Iterable[Message]) -> dict[str | None, list[Message]]:
    children: dict[str | None, list[Message]] = defaultdict(list)
    for message in messages:
        children[message.parent_id].append(message)
    return children
