"""What was said in a chat, as the database has it and, until it has it all, as memory does. Knows nothing of asking."""

from __future__ import annotations

from sqlmodel import select

from backend.chats.catalogue import Catalogue
from backend.chats.export import as_markdown
from backend.chats.tree import Branch, branch
from backend.chats.turns import CUT_SHORT, rows
from backend.chats.unstored import Attribute, UnstoredAnswers
from backend.errors import NotFoundError
from backend.generation.service import GenerationService
from backend.generation.stream import Generation
from backend.store.database import Database
from backend.store.tables.chats import Conversation, CutAnswer, Message

NO_MESSAGE = "This message does not exist; it may have been deleted."


class Transcripts(Catalogue):
    """The turns of this console's chats.

    Args:
        database: where they are.
        generations: who writes answers.
        attribute: finds the sources of an answer's sentences.
    """

    def __init__(self, database: Database, generations: GenerationService, attribute: Attribute) -> None:
        super().__init__(database)
        self._generations = generations
        self._answers = UnstoredAnswers(
            database, attribute, generations.in_background, lambda: generations.fingerprint
        )

    def branch(self, conversation_id: str) -> Branch:
        """The branch of a conversation that is shown; answers that are not stored yet as they are in memory.

        `details["unstored"]` says why the database does not take one, where it does not.
        """
        show = self._answers.shown()  # before the rows: what is stored in between is in both
        with self._database.session() as session:
            conversation = session.get(Conversation, conversation_id)
            found = branch(rows(session, conversation_id), conversation.leaf if conversation else "")
        for message in found.turns:
            show(message)
        return found

    def messages(self, conversation_id: str) -> list[Message]:
        """The turns of the branch that is shown, in order; see `branch`."""
        return self.branch(conversation_id).turns

    def message(self, message_id: str) -> Message | None:
        """One turn, if it is still there."""
        show = self._answers.shown()
        with self._database.session() as session:
            message = session.get(Message, message_id)
        if message is not None:
            show(message)
        return message

    def writing(self, message_id: str) -> Generation | None:
        """The generation that writes a message, while it does."""
        return self._answers.writing(message_id)

    def busy(self, conversation_id: str) -> Generation | None:
        """The generation that writes in a conversation now, on whichever branch: the one that was begun last."""
        return next(reversed(self._answers.unended(conversation_id)), None)

    def export(self, conversation_id: str) -> str:
        """The branch that is shown, as Markdown."""
        return as_markdown(self.get(conversation_id), self.messages(conversation_id))

    def can_go_on(self, message: Message) -> bool:
        """Whether an answer was cut, and the model that wrote it can write it on."""
        if message.details.get("finish_reason") not in CUT_SHORT:
            return False
        with self._database.session() as session:
            cut = session.exec(select(CutAnswer.fingerprint).where(CutAnswer.message_id == message.id)).first()
        return cut is not None and cut == self._generations.fingerprint

    def _known(self, message_id: str) -> Message:
        message = self.message(message_id)
        if message is None:
            raise NotFoundError(NO_MESSAGE)
        return message
