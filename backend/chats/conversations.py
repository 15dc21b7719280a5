"""Stored chats: every turn is in the database before the model is asked, and an answer belongs to its conversation.

An answer is stored in the background, and shown from memory until it is (`unstored`).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, select

from backend.chats.attribution import Mark, attribute
from backend.chats.catalogue import GONE
from backend.chats.line import QuestionLine, Waiting
from backend.chats.requests import answer_request, check_question, continuing_request, unmade_request
from backend.chats.settings import ChatOptions, ChatSettings, options
from backend.chats.transcripts import NO_MESSAGE, Transcripts
from backend.chats.tree import branch, latest_leaf
from backend.chats.turns import Writing, answer_to, placed, question, rows
from backend.errors import InvalidInputError, NotFoundError, TenfoldError
from backend.generation.request import TextRequest
from backend.generation.service import GenerationService
from backend.generation.stream import Generation
from backend.knowledge.embeddings import EmbeddingService
from backend.knowledge.retrieve import Retriever
from backend.knowledge.sight import Sight
from backend.metering.account import Account
from backend.store.database import Database
from backend.store.tables.chats import Conversation, CutAnswer, Message, MessageState, Speaker

__all__ = ["ChatOptions", "ChatSettings", "Conversations"]

log = logging.getLogger(__name__)

TITLE_LENGTH = 60


class BusyError(InvalidInputError):
    """An answer is being written where another was asked for."""

    def __init__(self) -> None:
        super().__init__("An answer is still being written in this conversation; stop it first.")


class Conversations(Transcripts):
    """The chats of this console.

    Args:
        database: where they are.
        generations: who answers.
        retriever: finds passages to answer from.
        embeddings: compares an answer's sentences with them; None: by their words alone.
        take: called with a key's id before anything is begun; raises where its budget or its rate is used up, which is
            then the answer's failure.
    """

    def __init__(
        self,
        database: Database,
        generations: GenerationService,
        retriever: Retriever,
        embeddings: EmbeddingService | None = None,
        take: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__(database, generations, self._marks)
        self._retriever, self._embeddings, self._take = retriever, embeddings, take
        self._asking = threading.Lock()  # held from the look at whether a chat is busy until its answer is begun
        self._line = QuestionLine()
        self._close_interrupted()

    def _close_interrupted(self) -> None:
        """Answers that were being written when the process ended say so."""
        with self._database.session() as session:
            for message in session.exec(select(Message).where(Message.state == MessageState.WRITING)).all():
                message.state = MessageState.FAILED
                message.error = "The server was stopped while this was being written."
                session.add(message)

    new_settings = ChatSettings()
    """How a new chat is answered."""

    @staticmethod
    def options(settings: ChatSettings, sight: Sight, *, searchable: bool, key_id: str = "") -> ChatOptions:
        """How to answer by a conversation's settings; see `settings.options`."""
        return options(settings, sight, searchable=searchable, key_id=key_id)

    # ---- asking --------------------------------------------------------------------------------------------------

    def ask(self, conversation_id: str, text: str, options: ChatOptions) -> Message:
        """Store a question and start its answer; returns the answer's message.

        Raises:
            BusyError: another is still being answered.
            InvalidInputError: the question is empty.
            NotFoundError: the conversation was deleted.
        """
        check_question(text, options)
        with self._asking:
            with self._turn(conversation_id) as (session, conversation, messages):
                turns = branch(messages, conversation.leaf).turns
                if not messages and conversation.title == "New conversation":
                    title = " ".join(text.split())
                    conversation.title = title if len(title) <= TITLE_LENGTH else title[: TITLE_LENGTH - 1] + "…"
                conversation.updated = time.time()
                asked = question(conversation_id, text, turns[-1].id if turns else None)
                turns.append(placed(session, messages, asked))
                answer = _answer_of(session, conversation, messages, turns)
            return self._answer(answer, turns, conversation.tenant, options)

    def send(self, conversation_id: str, text: str, options: ChatOptions) -> None:
        """Ask, or where an answer is being written, as soon as it has ended; raises as `ask` does otherwise."""
        check_question(text, options)
        if not self._line.of(conversation_id):
            with contextlib.suppress(BusyError):
                self.ask(conversation_id, text, options)
                return
        self._line.add(conversation_id, Waiting(text, options))
        self._ask_next(conversation_id)  # what it waits for may have ended in between

    def waiting(self, conversation_id: str) -> tuple[Waiting, ...]:
        """Questions that are asked when the answer being written has ended."""
        return self._line.of(conversation_id)

    def withdraw(self, conversation_id: str, waiting_id: str) -> None:
        """Do not ask a question that waits."""
        self._line.withdraw(conversation_id, waiting_id)

    def regenerate(self, message_id: str, options: ChatOptions) -> Message:
        """Answer a question once more; the answers that it has stay, each on a branch of its own.

        Args:
            message_id: an answer, or a question that has none.
            options: how to answer.
        """
        message = self._known(message_id)
        self.stop(message.conversation_id)
        with self._asking:
            with self._turn(message.conversation_id) as (session, conversation, messages):
                asked = message.id if message.role is Speaker.USER else message.parent_id
                turns = branch(messages, asked or "").turns
                answer = _answer_of(session, conversation, messages, turns)
            return self._answer(answer, turns, conversation.tenant, options, fresh=True)

    def edit(self, message_id: str, text: str, options: ChatOptions) -> Message:
        """Ask a question otherwise; as it was, it stays with all that followed, on a branch of its own."""
        check_question(text, options)
        message = self._known(message_id)
        if message.role is not Speaker.USER:
            raise NotFoundError(NO_MESSAGE)
        self.stop(message.conversation_id)
        with self._asking:
            with self._turn(message.conversation_id) as (session, conversation, messages):
                turns = branch(messages, message_id).turns[:-1]
                turns.append(placed(session, messages, question(message.conversation_id, text, message.parent_id)))
                answer = _answer_of(session, conversation, messages, turns)
            return self._answer(answer, turns, conversation.tenant, options)

    def go_on(self, message_id: str, options: ChatOptions) -> Message:
        """Write an answer on that was cut, from its last token.

        Raises:
            InvalidInputError: it was not cut, another model answers now, or the context is full.
            OverloadedError: the budget or the rate of the key is used up.
        """
        message = self._known(message_id)
        self._take(options.key_id)  # refused, the answer stays one that can be written on
        with self._asking:
            with self._turn(message.conversation_id) as (session, conversation, messages):
                row, cut = session.get(Message, message_id), session.get(CutAnswer, message_id)
                if row is None or cut is None:
                    raise InvalidInputError("This answer cannot be written on.")
                if cut.fingerprint != self._generations.fingerprint:
                    raise InvalidInputError("Another model answers now; ask it with Regenerate.")
                request = continuing_request(
                    cut, message, options, context=self._generations.context, tenant=conversation.tenant
                )
                row.state = MessageState.WRITING
                conversation.leaf = latest_leaf(messages, message_id)
            asked = next((turn.text for turn in messages if turn.id == message.parent_id), "")
            account = message.details.get("account")
            writing = Writing(
                Generation(
                    unmade_request(options, conversation.tenant), lambda _, done: self._answers.keep(message_id, done),
                    "Thinking…", before=cut.text,
                ),
                message.conversation_id, asked, account=Account(**account) if account else None,
                left_out=message.details.get("left_out", 0),
            )  # fmt: skip
            self._begin(message_id, writing, lambda: request)
        return row

    def show(self, message_id: str) -> None:
        """Show the branch through a message, from there on as it was begun last."""
        message = self._known(message_id)
        with self._database.session() as session:
            leaf = latest_leaf(rows(session, message.conversation_id), message_id)
        self._change(message.conversation_id, leaf=leaf)

    def stop(self, conversation_id: str) -> None:
        """Stop the answer being written, if one is, and wait for it to be stored."""
        generation = self.busy(conversation_id)
        if generation is not None:
            self._generations.cancel(generation)
            generation.wait(5)

    def delete(self, conversation_id: str) -> None:
        """Delete a conversation with its messages; an answer being written is stopped, what waits is not asked."""
        self._line.forget(conversation_id)
        self.stop(conversation_id)
        with self._database.session() as session:
            conversation = session.get(Conversation, conversation_id)
            if conversation is not None:
                session.delete(conversation)

    # ---- a turn --------------------------------------------------------------------------------------------------

    @contextmanager
    def _turn(self, conversation_id: str) -> Iterator[tuple[Session, Conversation, list[Message]]]:
        """A session to make a turn in, with the conversation and all its messages, only while nothing is written.

        The caller holds `_asking`.
        """
        if self.busy(conversation_id):
            raise BusyError()
        try:
            with self._database.session() as session:
                conversation = session.get(Conversation, conversation_id)
                if conversation is None:
                    raise NotFoundError(GONE)
                yield session, conversation, self._answers.turns(session, conversation_id)
        except IntegrityError as error:  # another server on the same database was as fast
            raise BusyError() from error

    def _answer(
        self, answer: Message, turns: list[Message], tenant: str, options: ChatOptions, *, fresh: bool = False
    ) -> Message:
        note = "Searching the documents…" if options.collection is not None else "Thinking…"
        generation = Generation(
            unmade_request(options, tenant), lambda _, done: self._answers.keep(answer.id, done), note
        )
        make = partial(answer_request, turns, options, self._retriever, tenant=tenant, fresh=fresh)

        def admitted() -> TextRequest:
            self._take(options.key_id)  # a refusal is the answer's failure, and says why
            return make()

        self._begin(answer.id, Writing(generation, answer.conversation_id, question=turns[-1].text), admitted)
        return answer

    def _begin(self, message_id: str, writing: Writing, make: Callable[[], TextRequest]) -> None:
        self._answers.begin(message_id, writing)
        writing.generation.on_end(lambda _: self._later(writing.conversation_id))
        self._generations.start_in_background(writing.generation, make)

    def _later(self, conversation_id: str) -> None:
        if self._line.of(conversation_id):
            with contextlib.suppress(RuntimeError):  # the server is stopping
                self._generations.in_background(lambda: self._ask_next(conversation_id))

    def _ask_next(self, conversation_id: str) -> None:
        """Ask the question that waits longest, unless an answer is being written."""
        waiting = self._line.next(conversation_id)
        if waiting is None:
            return
        try:
            self.ask(conversation_id, waiting.text, waiting.options)
        except BusyError:
            self._line.add(conversation_id, waiting, first=True)
        except TenfoldError as error:
            log.warning("a question that waited could not be asked: %s", error.message)

    def _marks(self, writing: Writing) -> tuple[Mark, ...]:
        def similar(texts: list[str]) -> np.ndarray | None:
            if self._embeddings is None or self._embeddings.missing:
                return None
            return self._embeddings.vectors(texts, "console", "realtime", generation.request.key_id)

        generation = writing.generation
        return attribute(generation.text.strip(), generation.citations, writing.question, similar,
                         cut=generation.finish_reason != "stop")  # fmt: skip


def _answer_of(
    session: Session, conversation: Conversation, messages: list[Message], turns: list[Message]
) -> Message:
    """The row of the answer that follows, in the transaction of its question; the branch that it ends is shown."""
    answer = placed(session, messages, answer_to(turns[-1] if turns else None))
    conversation.leaf = answer.id
    session.add(conversation)
    return answer
