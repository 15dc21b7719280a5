"""Answers that the database does not have yet: those being written, and those that it does not take now.

Each is stored in the background when it has ended, and tried again for as long as that fails. Where it quotes passages,
its sentences' sources are found behind that, and it counts as ended when they are: a page draws it once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from sqlmodel import Session

from backend.chats.attribution import Mark
from backend.chats.turns import Writing, cut_answer, record, rows
from backend.generation.stream import Generation
from backend.store.database import Database
from backend.store.tables.chats import CutAnswer, Message
from backend.store.writer import cause

log = logging.getLogger(__name__)

Attribute = Callable[[Writing], tuple[Mark, ...]]
"""Which passage supports which sentence of an answer; takes its time."""


class UnstoredAnswers:
    """Generations by the message that they write, until they are stored. Thread-safe.

    Args:
        database: where they go.
        attribute: finds the sources of an answer's sentences.
        in_background: has something done by a worker; raises RuntimeError where the server is stopping.
        fingerprint: of the model that answers now.
    """

    def __init__(
        self,
        database: Database,
        attribute: Attribute,
        in_background: Callable[[Callable[[], None]], None],
        fingerprint: Callable[[], str],
    ) -> None:
        self._database, self._attribute, self._in_background = database, attribute, in_background
        self._fingerprint = fingerprint
        self._writings: dict[str, Writing] = {}  # by message
        self._refused: dict[str, str] = {}  # why the database does not take a message, by its id

    def begin(self, message_id: str, writing: Writing) -> None:
        """Note who writes a message; where its generation stores its end is `keep`."""
        self._writings[message_id] = writing

    def writing(self, message_id: str) -> Generation | None:
        """The generation that writes a message, while it does."""
        writing = self._writings.get(message_id)
        return None if writing is None or writing.generation.ended else writing.generation

    def unended(self, conversation_id: str) -> list[Generation]:
        """The generations that write in a conversation now: one, and those that are being stopped on other branches."""
        writings = list(self._writings.values())
        found = [writing.generation for writing in writings if writing.conversation_id == conversation_id]
        return [generation for generation in found if not generation.ended]

    def shown(self) -> Callable[[Message], None]:
        """What puts into a row what is in memory now; to be asked for before the row is read."""
        writings = dict(self._writings)

        def show(message: Message) -> None:
            writing = writings.get(message.id)
            if writing is not None and writing.generation.ended:
                record(message, writing)
                if message.id in self._refused:
                    message.details = {**message.details, "unstored": self._refused[message.id]}

        return show

    def turns(self, session: Session, conversation_id: str) -> list[Message]:
        """The messages of a conversation within a session, as they came; what is not stored yet is stored with it.

        Of an answer that is still being written, that is as much as there is.
        """
        writings = dict(self._writings)
        turns = rows(session, conversation_id)
        for message in turns:
            writing = writings.get(message.id)
            if writing is not None and writing.generation.ended:
                record(message, writing)
            elif writing is not None:
                message.text = writing.generation.text.strip()
        return turns

    def keep(self, message_id: str, done: Callable[[], None]) -> None:
        """Have an answer stored. Where the first try fails it is shown from memory, and tried again behind that.

        `done` tells its readers that it has ended.
        """
        writing = replace(self._writings[message_id], fingerprint=self._fingerprint())
        self._writings[message_id] = writing
        sourced = bool(writing.generation.citations and writing.generation.text.strip())

        def told(error: Exception | None) -> None:
            self._note(message_id, error, last=not sourced)
            if not sourced:
                done()

        self._store(message_id, writing, told)
        if sourced:
            try:
                self._in_background(lambda: self._find_sources(message_id, writing, done))
            except RuntimeError:
                done()

    def _find_sources(self, message_id: str, writing: Writing, done: Callable[[], None]) -> None:
        try:
            writing = replace(writing, marks=self._attribute(writing))
        except Exception:  # an answer without them is an answer
            log.exception("the sources of an answer's sentences could not be found")
        self._writings[message_id] = writing

        def told(error: Exception | None) -> None:
            self._note(message_id, error, last=True)
            done()

        self._store(message_id, writing, told)

    def _store(self, message_id: str, writing: Writing, told: Callable[[Exception | None], None]) -> None:
        def write(session: Session) -> None:
            message = session.get(Message, message_id)
            if message is None:  # deleted meanwhile
                return
            record(message, writing)
            session.add(message)
            session.flush()
            cut = cut_answer(message_id, writing)
            before = session.get(CutAnswer, message_id)
            if cut is not None:
                session.merge(cut)
            elif before is not None and writing.generation.error is None:
                session.delete(before)

        self._database.writer.submit(write, told)

    def _note(self, message_id: str, error: Exception | None, *, last: bool) -> None:
        if error is not None:
            self._refused[message_id] = cause(error)
            return
        self._refused.pop(message_id, None)
        if last:
            self._writings.pop(message_id, None)
