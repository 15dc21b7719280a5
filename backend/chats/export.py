"""A conversation as a file to take along."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from backend.store.tables.chats import Conversation, Message, Speaker


def as_markdown(conversation: Conversation, messages: Iterable[Message]) -> str:
    """A conversation as Markdown, citations included."""
    day = datetime.fromtimestamp(conversation.created, UTC).strftime("%Y-%m-%d %H:%M UTC")
    parts = [f"# {conversation.title}", f"*{day}*"]
    for message in messages:
        parts.append(f"## {'You' if message.role is Speaker.USER else 'Assistant'}")
        parts.append(message.text or f"*{message.error or message.state}*")
        for citation in message.details.get("citations", []):
            parts.append(f"[{citation['number']}] {citation['document']}, part {citation['position'] + 1}")
    return "\n\n".join(parts) + "\n"
