"""Stored chats: every turn is in the database before the model is asked, and an answer belongs to its conversation.

An answer is stored in the background, and shown from memory until it is (`unstored`).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable

from backend.chats.answering import Answering, BusyError, answer_of
from backend.chats.line import QuestionLine, Waiting
from backend.chats.requests import check_question, continuing_request, unmade_request
from backend.chats.settings import ChatOptions, ChatSettings, options
from backend.chats.transcripts import NO_MESSAGE
from backend.chats.tree import branch, latest_leaf
from backend.chats.turns import Writing, placed, question, rows
from backend.errors import InvalidInputError, NotFoundError, TenfoldError
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


class Conversations(Answering):
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
        self._line = QuestionLine()
        self._moving = threading.Lock()  # held while a question goes from the line to its answer
        super().__init__(database, generations, retriever, embeddings, take, self._later)

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
                answer = answer_of(session, conversation, messages, turns)
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

        One that is being written in this conversation is stopped, and what there is of it stays.

        Args:
            message_id: an answer, or a question that has none.
            options: how to answer.
        """
        message = self._known(message_id)
        with self._asking:
            with self._turn(message.conversation_id, stops=True) as (session, conversation, messages):
                asked = message.id if message.role is Speaker.USER else message.parent_id
                turns = branch(messages, asked or "").turns
                answer = answer_of(session, conversation, messages, turns)
            return self._answer(answer, turns, conversation.tenant, options, fresh=True)

    def edit(self, message_id: str, text: str, options: ChatOptions) -> Message:
        """Ask a question otherwise; as it was, it stays with all that followed, on a branch of its own.

        An answer that is being written in this conversation is stopped, and what there is of it stays.
        """
        check_question(text, options)
        message = self._known(message_id)
        if message.role is not Speaker.USER:
            raise NotFoundError(NO_MESSAGE)
        with self._asking:
            with self._turn(message.conversation_id, stops=True) as (session, conversation, messages):
                turns = branch(messages, message_id).turns[:-1]
                turns.append(placed(session, messages, question(message.conversation_id, text, message.parent_id)))
                answer = answer_of(session, conversation, messages, turns)
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

    def delete(self, conversation_id: str) -> None:
        """Delete a conversation with its messages; an answer being written is stopped, what waits is not asked."""
        self._line.forget(conversation_id)
        self.stop(conversation_id)
        with self._database.session() as session:
            conversation = session.get(Conversation, conversation_id)
            if conversation is not None:
                session.delete(conversation)

    def _later(self, conversation_id: str) -> None:
        if self._line.of(conversation_id):
            with contextlib.suppress(RuntimeError):  # the server is stopping
                self._generations.in_background(lambda: self._ask_next(conversation_id))

    def _ask_next(self, conversation_id: str) -> None:
        """Ask the question that waits longest, unless an answer is being written; until then it stays in line."""
        with self._moving:
            waiting = next(iter(self._line.of(conversation_id)), None)
            if waiting is None:
                return
            try:
                self.ask(conversation_id, waiting.text, waiting.options)
            except BusyError:
                return
            except TenfoldError as error:
                log.warning("a question that waited could not be asked: %s", error.message)
            self._line.withdraw(conversation_id, waiting.id)
