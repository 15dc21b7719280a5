"""Questions that were sent while an answer was being written: each is asked when its turn comes, whoever looks on."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from backend.chats.settings import ChatOptions
from backend.store.ids import new_id


@dataclass(frozen=True)
class Waiting:
    """A question, and how it is to be answered."""

    text: str
    options: ChatOptions
    id: str = field(default_factory=new_id)


class QuestionLine:
    """The questions that wait, by conversation. Kept in memory: what was not asked yet is a draft. Thread-safe."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[Waiting]] = {}
        self._lock = threading.Lock()

    def of(self, conversation_id: str) -> tuple[Waiting, ...]:
        """Those of a conversation, in the order in which they are going to be asked."""
        with self._lock:
            return tuple(self._waiting.get(conversation_id, ()))

    def add(self, conversation_id: str, waiting: Waiting) -> None:
        """Put one at the end."""
        with self._lock:
            self._waiting.setdefault(conversation_id, []).append(waiting)

    def withdraw(self, conversation_id: str, waiting_id: str) -> None:
        """Take one out."""
        with self._lock:
            line = [waiting for waiting in self._waiting.get(conversation_id, ()) if waiting.id != waiting_id]
            self._waiting[conversation_id] = line
            if not line:
                del self._waiting[conversation_id]

    def forget(self, conversation_id: str) -> None:
        """Take all out of a conversation."""
        with self._lock:
            self._waiting.pop(conversation_id, None)
