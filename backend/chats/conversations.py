"""Stored chats: every turn is in the database before the model is asked, and an answer belongs to its conversation.

An answer is stored in the background, and shown from memory until it is (`unstored`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, or_, select

from backend.chats.export import as_markdown
from backend.chats.turns import alternating, place_answer, rows
from backend.chats.unstored import UnstoredAnswers
from backend.engine.messages import SamplingParams
from backend.errors import InvalidInputError, NotFoundError
from backend.generation.grounded import grounded_request
from backend.generation.request import TextRequest, check_sampling, check_text
from backend.generation.service import GenerationService
from backend.generation.stream import Generation
from backend.knowledge.retrieve import Retriever
from backend.knowledge.sight import SHARED, Sight
from backend.store.database import Database
from backend.store.tables.chats import Conversation, Message, MessageState, Speaker

TITLE_LENGTH = 60
BUSY = "An answer is still being written in this conversation; stop it first."


@dataclass(frozen=True)
class ChatOptions:
    """How to answer: system prompt, sampling, and which collection to answer from (None: no documents).

    `sight` is what of the documents the person sees who asks.
    """

    system: str = ""
    sampling: SamplingParams = field(default_factory=lambda: SamplingParams(temperature=0.0))
    max_tokens: int | None = None
    collection: str | None = None
    sight: Sight = SHARED


class Conversations:
    """The chats of this console."""

    def __init__(self, database: Database, generations: GenerationService, retriever: Retriever) -> None:
        self._database, self._generations, self._retriever = database, generations, retriever
        self._asking = threading.Lock()  # held from the look at whether a chat is busy until its answer is begun
        self._answers = UnstoredAnswers(database)
        self._close_interrupted()

    def _close_interrupted(self) -> None:
        """Answers that were being written when the process ended say so."""
        with self._database.session() as session:
            for message in session.exec(select(Message).where(Message.state == MessageState.WRITING)).all():
                message.state = MessageState.FAILED
                message.error = "The server was stopped while this was being written."
                session.add(message)

    @staticmethod
    def options(
        *, system: str, temperature: float, top_p: float, repetition_penalty: float, max_tokens: int,
        collection: str | None, sight: Sight,
    ) -> ChatOptions:
        """How to answer, from what a person set; see `ChatOptions`."""
        sampling = SamplingParams(temperature=temperature, top_p=top_p, repetition_penalty=repetition_penalty)
        return ChatOptions(system=system, sampling=sampling, max_tokens=max_tokens, collection=collection, sight=sight)

    # ---- the list ------------------------------------------------------------------------------------------------

    def create(self, tenant: str = "") -> Conversation:
        """A new, empty conversation of a tenant's."""
        with self._database.session() as session:
            conversation = Conversation(tenant=tenant)
            session.add(conversation)
        return conversation

    def latest(self, search: str = "", limit: int = 200, tenant: str = "") -> list[Conversation]:
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
        """The turns of a conversation, in order; answers that are not stored yet as they are in memory.

        `details["unstored"]` says why the database does not take one, where it does not.
        """
        show = self._answers.shown()  # before the rows: what is stored in between is in both
        with self._database.session() as session:
            messages = rows(session, conversation_id)
        for message in messages:
            show(message)
        return messages

    def message(self, message_id: str) -> Message | None:
        """One turn, as `messages` gives it; None where it was deleted."""
        show = self._answers.shown()
        with self._database.session() as session:
            message = session.get(Message, message_id)
        if message is not None:
            show(message)
        return message

    def export(self, conversation_id: str) -> str:
        """A conversation as Markdown, citations included."""
        return as_markdown(self.get(conversation_id), self.messages(conversation_id))

    # ---- turns ---------------------------------------------------------------------------------------------------

    def writing(self, message_id: str) -> Generation | None:
        """The generation that writes a message, while it does."""
        return self._answers.writing(message_id)

    def ask(self, conversation_id: str, text: str, options: ChatOptions) -> Message:
        """Store a question and start its answer; returns the answer's message.

        Raises:
            InvalidInputError: the question is empty, or another is still being answered.
            NotFoundError: the conversation was deleted.
        """
        _check_question(text)
        check_sampling(options.sampling, ())
        with self._asking:
            with self._turn(conversation_id) as session:
                conversation = session.get(Conversation, conversation_id)
                if conversation is None:
                    raise NotFoundError("This conversation does not exist; it may have been deleted.")
                turns = self._answers.turns(session, conversation_id)
                if not turns and conversation.title == "New conversation":
                    title = " ".join(text.split())
                    conversation.title = title if len(title) <= TITLE_LENGTH else title[: TITLE_LENGTH - 1] + "…"
                conversation.updated = time.time()
                session.add(conversation)
                position = turns[-1].position + 1 if turns else 0
                turns.append(Message(conversation_id=conversation_id, position=position, role=Speaker.USER, text=text))
                session.add(turns[-1])
                answer = place_answer(session, turns)
            return self._answer(answer, turns, options)

    def regenerate(self, conversation_id: str, options: ChatOptions) -> Message:
        """Replace the last answer with a new one."""
        self.stop(conversation_id)
        with self._asking:
            with self._turn(conversation_id) as session:
                turns = self._answers.turns(session, conversation_id)
                if turns and turns[-1].role is Speaker.ASSISTANT:
                    session.delete(turns.pop())
                answer = place_answer(session, turns)
            return self._answer(answer, turns, options, fresh=True)

    def edit(self, message_id: str, text: str, options: ChatOptions) -> Message:
        """Change a question and answer it again; what came after it is dropped."""
        _check_question(text)
        message = self.message(message_id)
        if message is None or message.role is not Speaker.USER:
            raise NotFoundError("This message does not exist; it may have been deleted.")
        self.stop(message.conversation_id)
        with self._asking:
            with self._turn(message.conversation_id) as session:
                turns = self._answers.turns(session, message.conversation_id)
                at = next((i for i, turn in enumerate(turns) if turn.id == message_id), None)
                if at is None:
                    raise NotFoundError("This message does not exist; it may have been deleted.")
                turns[at].text = text
                session.add(turns[at])
                for later in turns[at + 1 :]:
                    session.delete(later)
                answer = place_answer(session, turns[: at + 1])
            return self._answer(answer, turns[: at + 1], options)

    @contextmanager
    def _turn(self, conversation_id: str) -> Iterator[Session]:
        """A session to make a turn in, only while nothing is being written; the caller holds `_asking`."""
        if self.busy(conversation_id):
            raise InvalidInputError(BUSY)
        try:
            with self._database.session() as session:
                yield session
        except IntegrityError as error:  # another server on the same database was as fast
            raise InvalidInputError(BUSY) from error

    def busy(self, conversation_id: str) -> Generation | None:
        """The generation that writes in a conversation now."""
        for message in self.messages(conversation_id):
            generation = self._answers.writing(message.id)
            if generation is not None:
                return generation
        return None

    def stop(self, conversation_id: str) -> None:
        """Stop the answer being written, if one is, and wait for it to be stored."""
        generation = self.busy(conversation_id)
        if generation is not None:
            self._generations.cancel(generation)
            generation.wait(5)

    def _answer(self, answer: Message, turns: list[Message], options: ChatOptions, *, fresh: bool = False) -> Message:
        messages = alternating(turns)
        with self._database.session() as session:
            conversation = session.get(Conversation, answer.conversation_id)
            tenant = conversation.tenant if conversation else ""
        note = "Searching the documents…" if options.collection is not None else "Thinking…"
        generation = self._answers.begin(answer.id, note)

        def make() -> TextRequest:
            question = messages[-1]["content"]
            common: dict[str, Any] = {
                "sampling": options.sampling, "max_tokens": options.max_tokens, "source": "console", "fresh": fresh,
                "tenant": tenant, "question": question if len(messages) == 1 else "",
                "likeness_scope": f"{options.collection}\0{options.system}",
            }  # fmt: skip
            if options.collection is None:
                system = [{"role": "system", "content": options.system}] if options.system.strip() else []
                return TextRequest(messages=[*system, *messages], trim=True, **common)
            grounding = self._retriever.ground(
                question, messages[:-1], options.collection or None, options.system, options.sight,
                max_tokens=options.max_tokens, source="console",
            )  # fmt: skip
            return grounded_request(grounding, **common)

        self._generations.start_in_background(generation, make)
        return answer


def _check_question(text: str) -> None:
    if not text.strip():
        raise InvalidInputError("The message is empty.", param="messages")
    check_text(text, "messages")
