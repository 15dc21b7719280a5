"""Answers that the database does not have yet: those being written, and those that it does not take now.

Each is stored in the background when it has ended, and tried again for as long as that fails.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlmodel import Session

from backend.chats.turns import record, rows
from backend.generation.request import TextRequest
from backend.generation.stream import Generation
from backend.store.database import Database
from backend.store.tables.chats import Message
from backend.store.writer import cause


class UnstoredAnswers:
    """Generations by the message that they write, until they are stored. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._generations: dict[str, Generation] = {}
        self._refused: dict[str, str] = {}  # why the database does not take a message, by its id

    def begin(self, message_id: str, note: str) -> Generation:
        """A generation that writes a message, and whose end is stored there."""
        generation = Generation(
            TextRequest(source="console"), lambda ended, done: self._keep(message_id, ended, done), note
        )
        self._generations[message_id] = generation
        return generation

    def writing(self, message_id: str) -> Generation | None:
        """The generation that writes a message, while it does."""
        generation = self._generations.get(message_id)
        return None if generation is None or generation.ended else generation

    def shown(self) -> Callable[[Message], None]:
        """What puts into a row what is in memory now; to be asked for before the row is read."""
        generations = dict(self._generations)

        def show(message: Message) -> None:
            generation = generations.get(message.id)
            if generation is not None and generation.ended:
                record(message, generation)
                if message.id in self._refused:
                    message.details = {**message.details, "unstored": self._refused[message.id]}

        return show

    def turns(self, session: Session, conversation_id: str) -> list[Message]:
        """The turns of a conversation within a session, in order; what is not stored yet is stored with it."""
        generations = dict(self._generations)
        turns = rows(session, conversation_id)
        for message in turns:
            generation = generations.get(message.id)
            if generation is not None and generation.ended:
                record(message, generation)
        return turns

    def _keep(self, message_id: str, generation: Generation, done: Callable[[], None]) -> None:
        """Have an answer stored. Where the first try fails it is shown from memory, and tried again behind that."""

        def write(session: Session) -> None:
            message = session.get(Message, message_id)
            if message is not None:  # deleted meanwhile
                record(message, generation)
                session.add(message)

        def tell(error: Exception | None) -> None:
            if error is None:
                self._generations.pop(message_id, None)
                self._refused.pop(message_id, None)
            else:
                self._refused[message_id] = cause(error)
            done()

        self._database.writer.submit(write, tell)
