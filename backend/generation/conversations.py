"""Stored chats: every turn is in the database before the model is asked, and an answer belongs to its conversation."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlmodel import col, or_, select

from backend.engine.messages import SamplingParams
from backend.errors import InvalidInputError, NotFoundError
from backend.generation.service import Generation, GenerationService, TextRequest, check_sampling
from backend.knowledge.grounding import Ground, Grounding
from backend.store.database import Database
from backend.store.tables import Conversation, Message

TITLE_LENGTH = 60


@dataclass(frozen=True)
class ChatOptions:
    """How to answer: system prompt, sampling, and which collection to answer from (None: no documents)."""

    system: str = ""
    sampling: SamplingParams = field(default_factory=lambda: SamplingParams(temperature=0.0))
    max_tokens: int | None = None
    collection: str | None = None


def grounded_request(grounding: Grounding, **more: Any) -> TextRequest:
    """The request to generate from what retrieval made of a question."""
    return TextRequest(
        messages=grounding.messages, passages=grounding.passages, citations=tuple(grounding.citations),
        index_version=grounding.index_version, reply=grounding.reply, **more,
    )  # fmt: skip


class Conversations:
    """The chats of this console."""

    def __init__(self, database: Database, generations: GenerationService, ground: Ground) -> None:
        self._database, self._generations, self._ground = database, generations, ground
        self._writing: dict[str, Generation] = {}  # by message id
        self._close_interrupted()

    def _close_interrupted(self) -> None:
        """Answers that were being written when the process ended say so."""
        with self._database.session() as session:
            for message in session.exec(select(Message).where(Message.state == "writing")).all():
                message.state, message.error = "failed", "The server was stopped while this was being written."
                session.add(message)

    # ---- the list ------------------------------------------------------------------------------------------------

    def create(self, tenant: str = "") -> Conversation:
        """A new, empty conversation of a tenant's."""
        with self._database.session() as session:
            conversation = Conversation(tenant=tenant)
            session.add(conversation)
        return conversation

    def find(self, search: str = "", limit: int = 200, tenant: str = "") -> list[Conversation]:
        """A tenant's conversations with messages, latest first; `search` looks into titles and texts."""
        with self._database.session() as session:
            has_messages = col(Conversation.id).in_(select(Message.conversation_id))
            query = select(Conversation).where(has_messages, Conversation.tenant == tenant)
            query = query.order_by(col(Conversation.updated).desc()).limit(limit)
            if search.strip():
                pattern = "%" + search.strip().replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
                found = select(Message.conversation_id).where(col(Message.text).ilike(pattern, escape="\\"))
                query = query.where(
                    or_(col(Conversation.title).ilike(pattern, escape="\\"), col(Conversation.id).in_(found))
                )
            return list(session.exec(query).all())

    def get(self, conversation_id: str, tenant: str | None = None) -> Conversation:
        """One conversation; with a tenant, only if it is theirs.

        Raises:
            NotFoundError: it was deleted, never was, or is somebody else's.
        """
        with self._database.session() as session:
            conversation = session.get(Conversation, conversation_id)
        if conversation is None or tenant not in (None, conversation.tenant):
            raise NotFoundError("This conversation does not exist; it may have been deleted.")
        return conversation

    def rename(self, conversation_id: str, title: str) -> None:
        """Give a conversation another title."""
        if not title.strip():
            raise InvalidInputError("A title cannot be empty.", param="title")
        with self._database.session() as session:
            conversation = session.get(Conversation, conversation_id)
            if conversation is not None:
                conversation.title = title.strip()[:200]
                session.add(conversation)

    def delete(self, conversation_id: str) -> None:
        """Delete a conversation with its messages; an answer being written is stopped."""
        self.stop(conversation_id)
        with self._database.session() as session:
            conversation = session.get(Conversation, conversation_id)
            if conversation is not None:
                session.delete(conversation)

    def messages(self, conversation_id: str) -> list[Message]:
        """The turns of a conversation, in order."""
        with self._database.session() as session:
            query = select(Message).where(Message.conversation_id == conversation_id).order_by(col(Message.position))
            return list(session.exec(query).all())

    def export(self, conversation_id: str) -> str:
        """A conversation as Markdown, citations included."""
        conversation = self.get(conversation_id)
        day = datetime.fromtimestamp(conversation.created, UTC).strftime("%Y-%m-%d %H:%M UTC")
        parts = [f"# {conversation.title}", f"*{day}*"]
        for message in self.messages(conversation_id):
            parts.append(f"## {'You' if message.role == 'user' else 'Assistant'}")
            parts.append(message.text or f"*{message.error or message.state}*")
            for citation in message.details.get("citations", []):
                parts.append(f"[{citation['number']}] {citation['document']}, part {citation['position'] + 1}")
        return "\n\n".join(parts) + "\n"

    # ---- turns ---------------------------------------------------------------------------------------------------

    def writing(self, message_id: str) -> Generation | None:
        """The generation that writes a message, while it does."""
        return self._writing.get(message_id)

    def ask(self, conversation_id: str, text: str, options: ChatOptions) -> Message:
        """Store a question and start its answer; returns the answer's message."""
        if not text.strip():
            raise InvalidInputError("The message is empty.", param="messages")
        check_sampling(options.sampling, ())
        if self.busy(conversation_id):
            raise InvalidInputError("An answer is still being written in this conversation; stop it first.")
        now = time.time()
        with self._database.session() as session:
            conversation = session.get(Conversation, conversation_id)
            if conversation is None:
                raise NotFoundError("This conversation does not exist; it may have been deleted.")
            last = session.exec(
                select(Message.position)
                .where(Message.conversation_id == conversation_id)
                .order_by(col(Message.position).desc())
            ).first()
            if last is None and conversation.title == "New conversation":
                title = " ".join(text.split())
                conversation.title = title if len(title) <= TITLE_LENGTH else title[: TITLE_LENGTH - 1] + "…"
            conversation.updated = now
            session.add(conversation)
            position = -1 if last is None else last
            session.add(
                Message(conversation_id=conversation_id, position=position + 1, role="user", text=text, created=now)
            )
        return self._answer(conversation_id, options)

    def regenerate(self, conversation_id: str, options: ChatOptions) -> Message:
        """Replace the last answer with a new one."""
        self.stop(conversation_id)
        with self._database.session() as session:
            messages = session.exec(
                select(Message).where(Message.conversation_id == conversation_id).order_by(col(Message.position))
            ).all()
            if messages and messages[-1].role == "assistant":
                session.delete(messages[-1])
        return self._answer(conversation_id, options, fresh=True)

    def edit(self, message_id: str, text: str, options: ChatOptions) -> Message:
        """Change a question and answer it again; what came after it is dropped."""
        if not text.strip():
            raise InvalidInputError("The message is empty.", param="messages")
        with self._database.session() as session:
            message = session.get(Message, message_id)
            if message is None or message.role != "user":
                raise NotFoundError("This message does not exist; it may have been deleted.")
            conversation_id = message.conversation_id
        self.stop(conversation_id)
        with self._database.session() as session:
            message = session.get(Message, message_id)
            if message is None:
                raise NotFoundError("This message does not exist; it may have been deleted.")
            message.text = text
            session.add(message)
            later = select(Message).where(
                Message.conversation_id == conversation_id, Message.position > message.position
            )
            for other in session.exec(later).all():
                session.delete(other)
        return self._answer(conversation_id, options)

    def busy(self, conversation_id: str) -> Generation | None:
        """The generation that writes in a conversation now."""
        for message in self.messages(conversation_id):
            generation = self._writing.get(message.id)
            if generation is not None and not generation.ended:
                return generation
        return None

    def stop(self, conversation_id: str) -> None:
        """Stop the answer being written, if one is, and wait for it to be stored."""
        generation = self.busy(conversation_id)
        if generation is not None:
            self._generations.cancel(generation)
            generation.wait(5)

    def _answer(self, conversation_id: str, options: ChatOptions, *, fresh: bool = False) -> Message:
        history = [m for m in self.messages(conversation_id) if m.text]
        turns = [{"role": m.role, "content": m.text} for m in history]
        if not turns or turns[-1]["role"] != "user":
            raise InvalidInputError("There is no question to answer.")
        answer = Message(
            conversation_id=conversation_id, position=history[-1].position + 1, role="assistant", state="writing"
        )
        with self._database.session() as session:
            session.add(answer)
        tenant = self.get(conversation_id).tenant
        generation = Generation(TextRequest(source="console"))
        generation.note = "Searching the documents…" if options.collection is not None else "Thinking…"
        self._writing[answer.id] = generation
        generation.on_end(lambda g: self._store(answer.id, g))

        def prepare() -> TextRequest:
            question = turns[-1]["content"]
            common: dict[str, Any] = {
                "sampling": options.sampling, "max_tokens": options.max_tokens, "source": "console", "fresh": fresh,
                "salt": tenant,
                "question": question if len(turns) == 1 else "", "scope": f"{options.collection}\0{options.system}",
            }  # fmt: skip
            if options.collection is None:
                system = [{"role": "system", "content": options.system}] if options.system.strip() else []
                return TextRequest(messages=[*system, *turns], **common)
            grounding = self._ground(question, turns[:-1], options.collection, options.system, options.max_tokens)
            generation.details["citations"] = grounding.citations
            if grounding.notice:
                generation.details["notice"] = grounding.notice
            return grounded_request(grounding, **common)

        self._generations.start_in_background(generation, prepare)
        return answer

    def _store(self, message_id: str, generation: Generation) -> None:
        details: dict[str, Any] = dict(generation.details)
        if generation.account is not None:
            details["account"] = asdict(generation.account)
        details["finish_reason"] = generation.finish_reason
        state = {"abort": "stopped"}.get(generation.finish_reason or "", "done")
        with self._database.session() as session:
            message = session.get(Message, message_id)
            if message is not None:
                message.text = generation.text.strip()
                message.state = "failed" if generation.error else state
                message.error = generation.error.message if generation.error else ""
                message.details = details
                session.add(message)
        self._writing.pop(message_id, None)
