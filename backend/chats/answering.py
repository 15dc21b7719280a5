"""Begins and stops answers: one at a time in a conversation, each in a row made in its question's transaction.

What is asked, and when, is the business of `conversations`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, select

from backend.chats.attribution import Mark, attribute
from backend.chats.catalogue import GONE
from backend.chats.requests import answer_request, unmade_request
from backend.chats.settings import ChatOptions
from backend.chats.transcripts import Transcripts
from backend.chats.turns import Writing, answer_to, placed
from backend.errors import InvalidInputError, NotFoundError
from backend.generation.request import TextRequest
from backend.generation.service import GenerationService
from backend.generation.stream import Generation
from backend.knowledge.embeddings import EmbeddingService
from backend.knowledge.retrieve import Retriever
from backend.store.database import Database
from backend.store.tables.chats import Conversation, Message, MessageState


class BusyError(InvalidInputError):
    """An answer is being written where another was asked for."""

    def __init__(self) -> None:
        super().__init__("An answer is still being written in this conversation; stop it first.")


class Answering(Transcripts):
    """Writes the answers of this console's chats.

    Args:
        database: where they are.
        generations: who answers.
        retriever: finds passages to answer from.
        embeddings: compares an answer's sentences with them; None: by their words alone.
        take: called with a key's id before anything is begun; raises where its budget or its rate is used up, which is
            then the answer's failure.
        ended: called with a conversation's id when an answer in it has ended; must not wait for anything.
    """

    def __init__(
        self,
        database: Database,
        generations: GenerationService,
        retriever: Retriever,
        embeddings: EmbeddingService | None,
        take: Callable[[str], None],
        ended: Callable[[str], None],
    ) -> None:
        super().__init__(database, generations, self._marks)
        self._retriever, self._embeddings, self._take, self._ended = retriever, embeddings, take, ended
        self._asking = threading.Lock()  # held from the look at whether a chat is busy until its answer is begun
        self._close_interrupted()

    def _close_interrupted(self) -> None:
        """Answers that were being written when the process ended say so."""
        with self._database.session() as session:
            for message in session.exec(select(Message).where(Message.state == MessageState.WRITING)).all():
                message.state = MessageState.FAILED
                message.error = "The server was stopped while this was being written."
                session.add(message)

    def stop(self, conversation_id: str) -> None:
        """Stop the answer being written, if one is, and wait for it to be stored."""
        for generation in self._answers.unended(conversation_id):
            self._generations.cancel(generation)
            generation.wait(5)

    @contextmanager
    def _turn(
        self, conversation_id: str, *, stops: bool = False
    ) -> Iterator[tuple[Session, Conversation, list[Message]]]:
        """A session to make a turn in, with the conversation and all its messages, only while nothing is written.

        A turn on another branch `stops` what is written instead: it ends by itself, whoever waits for that. The caller
        holds `_asking` until its own answer is begun, so no question that waits comes in between.
        """
        writing = self._answers.unended(conversation_id)
        if writing and not stops:
            raise BusyError()
        try:
            with self._database.session() as session:
                conversation = session.get(Conversation, conversation_id)
                if conversation is None:
                    raise NotFoundError(GONE)
                yield session, conversation, self._answers.turns(session, conversation_id)
        except IntegrityError as error:  # another server on the same database was as fast
            raise BusyError() from error
        for generation in writing:
            self._generations.cancel(generation)

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
        writing.generation.on_end(lambda _: self._ended(writing.conversation_id))
        self._generations.start_in_background(writing.generation, make)

    def _marks(self, writing: Writing) -> tuple[Mark, ...]:
        def similar(texts: list[str]) -> np.ndarray | None:
            if self._embeddings is None or self._embeddings.missing:
                return None
            return self._embeddings.vectors(texts, "console", "realtime", generation.request.key_id)

        generation = writing.generation
        return attribute(generation.text.strip(), generation.citations, writing.question, similar,
                         cut=generation.finish_reason != "stop")  # fmt: skip


def answer_of(
    session: Session, conversation: Conversation, messages: list[Message], turns: list[Message]
) -> Message:
    """The row of the answer that follows, in the transaction of its question; the branch that it ends is shown."""
    answer = placed(session, messages, answer_to(turns[-1] if turns else None))
    conversation.leaf = answer.id
    session.add(conversation)
    return answer
