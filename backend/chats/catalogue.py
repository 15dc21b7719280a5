"""The list of chats: found, named, kept with their settings, taken along and deleted. Knows nothing of answering."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import exists
from sqlmodel import col, or_, select

from backend.chats.settings import ChatSettings
from backend.errors import InvalidInputError, NotFoundError
from backend.store.database import Database
from backend.store.tables.chats import Conversation, Message

GONE = "This conversation does not exist; it may have been deleted."


class Catalogue:
    """The chats of this console, without their turns."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, tenant: str = "", settings: ChatSettings | None = None) -> Conversation:
        """A new, empty conversation of a tenant's."""
        with self._database.session() as session:
            conversation = Conversation(tenant=tenant, settings=settings.as_dict() if settings else {})
            session.add(conversation)
        return conversation

    def latest(self, search: str = "", limit: int = 200, tenant: str = "") -> Sequence[Conversation]:
        """A tenant's conversations with messages, latest first; `search` looks into titles and texts."""
        with self._database.session() as session:
            has_messages = exists().where(col(Message.conversation_id) == col(Conversation.id))
            query = select(Conversation).where(has_messages, Conversation.tenant == tenant)
            query = query.order_by(col(Conversation.updated).desc()).limit(limit)
            if search.strip():
                pattern = "%" + search.strip().replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
                found = select(Message.conversation_id).where(col(Message.text).ilike(pattern, escape="\\"))
                query = query.where(
                    or_(col(Conversation.title).ilike(pattern, escape="\\"), col(Conversation.id).in_(found))
                )
            return session.exec(query).all()

    def get(self, conversation_id: str, tenant: str | None = None) -> Conversation:
        """One conversation; with a tenant, only if it is theirs.

        Raises:
            NotFoundError: it was deleted, never was, or is somebody else's.
        """
        with self._database.session() as session:
            conversation = session.get(Conversation, conversation_id)
        if conversation is None or tenant not in (None, conversation.tenant):
            raise NotFoundError(GONE)
        return conversation

    def rename(self, conversation_id: str, title: str) -> None:
        """Give a conversation another title."""
        if not title.strip():
            raise InvalidInputError("A title cannot be empty.", param="title")
        self._change(conversation_id, title=title.strip()[:200])

    def settings(self, conversation_id: str) -> ChatSettings:
        """How a conversation is answered."""
        return ChatSettings.stored(self.get(conversation_id).settings)

    def set(self, conversation_id: str, settings: ChatSettings) -> None:
        """Answer a conversation otherwise from now on."""
        self._change(conversation_id, settings=settings.as_dict())

    def _change(self, conversation_id: str, **values: Any) -> None:
        with self._database.session() as session:
            conversation = session.get(Conversation, conversation_id)
            if conversation is not None:
                conversation.sqlmodel_update(values)
                session.add(conversation)
