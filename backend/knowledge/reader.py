"""The one thread that reads documents: queued → parsing → embedding → ready, or failed with its reason.

What is left to do is in the database, so a restart just goes on. No error ends the thread or makes it spin: what is a
document's own fails that document; a full disk, a locked database or an absent engine is waited out, longer each time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from sqlmodel import col, select

from backend.errors import StorageError, TenfoldError, UnavailableError
from backend.files.blobs import Blobs
from backend.knowledge.build import Builder, Rate
from backend.knowledge.documents import PENDING, Documents
from backend.knowledge.index import KnowledgeIndex
from backend.knowledge.signals import CancelledError, ReaderSignals
from backend.store.database import Database
from backend.store.failures import named_failure
from backend.store.tables.documents import Document, DocumentState

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds to wait after a first failure, doubled with each that follows, and the most."""
ATTEMPTS = 3
"""How often the engine may go away in the middle of a document before it is the document that fails."""
UNKNOWN = "Something went wrong while it was read; the server's log says what. Retry."
OPENING = 0.5
"""Seconds between two looks at whether the index is open."""


class ReaderPhase(StrEnum):
    """What the reader does."""

    READING = "reading"
    IDLE = "idle"
    WAITING = "waiting"
    STOPPED = "stopped"


@dataclass(frozen=True)
class ReaderState:
    """What the reader does, why (where it waits), and since when (seconds since the epoch)."""

    phase: ReaderPhase
    detail: str = ""
    since: float = 0.0


class Reader:
    """Reads what is queued, takes away what was deleted, and keeps the index.

    Args:
        pause: waits so many seconds, whatever is uploaded meanwhile.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        documents: Documents,
        builder: Builder,
        index: KnowledgeIndex,
        signals: ReaderSignals,
        *,
        pause: Callable[[float], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database, self._blobs, self._documents = database, blobs, documents
        self._builder, self._index, self._signals = builder, index, signals
        self._pause, self._clock = pause or signals.pause, clock
        self._state = ReaderState(ReaderPhase.STOPPED, since=clock())
        self._attempts: dict[str, int] = {}
        self._put_off: dict[str, float] = {}  # deletions that failed, and when they are tried again
        self._swept = False
        self._dirty = False
        self._thread = threading.Thread(target=self._work, name="reader", daemon=True)

    def start(self) -> None:
        """Begin working; what a kill left unfinished is taken up again."""
        self._blobs.sweep()
        self._enter(ReaderPhase.IDLE)
        self._thread.start()

    def close(self) -> None:
        """End the thread; what it was doing goes on at the next start."""
        self._signals.stop()
        if self._thread.is_alive():
            self._thread.join(10)
        self._builder.close()

    @property
    def state(self) -> ReaderState:
        """What it does now."""
        return self._state

    def rate(self, document_id: str) -> Rate | None:
        """How reading a document goes; None where it is not being read."""
        return self._builder.rate(document_id)

    def _enter(self, phase: ReaderPhase, detail: str = "") -> None:
        if (phase, detail) != (self._state.phase, self._state.detail):
            self._state = ReaderState(phase, detail, self._clock())

    def _work(self) -> None:
        failures = 0
        try:
            while not self._signals.stopping:
                try:
                    timeout = self._turn()
                except Exception as error:
                    if failures == 0:
                        log.exception("reading is interrupted")
                    self._enter(ReaderPhase.WAITING, _said(error))
                    self._pause(min(FIRST_PAUSE * 2**failures, LONGEST_PAUSE))
                    failures = min(failures + 1, 10)
                    continue
                failures = 0
                if timeout != 0:
                    self._signals.wait(timeout)
        finally:
            self._enter(ReaderPhase.STOPPED)

    def _turn(self) -> float | None:
        """Do one thing; returns how long to wait for the next: not at all (0), seconds, or until there is work (None).

        Raises:
            Exception: nothing can be done now; what there is to do stays queued.
        """
        if not self._swept:
            self._builder.removal.sweep()
            self._swept = True
        if not self._index.opened:
            # Its own trouble, if it has any, is mended by whoever opens it; the reader only says so.
            problem = self._index.problem
            self._enter(*((ReaderPhase.WAITING, problem) if problem else (ReaderPhase.IDLE, "The index is opening.")))
            return OPENING
        self._builder.removal.tidy()
        document = self._next()
        if document is None:
            if self._dirty:
                self._index.save()
                self._dirty = False
            self._enter(ReaderPhase.IDLE)
            return min((at - self._clock() for at in self._put_off.values()), default=None)
        if document.state != DocumentState.DELETING and (missing := self._builder.missing) is not None:
            self._enter(ReaderPhase.WAITING, missing.message)
            return OPENING
        self._enter(ReaderPhase.READING)
        if document.state == DocumentState.DELETING:
            self._erase(document)
        else:
            self._read(document)
        self._dirty = True
        return 0

    def _next(self) -> Document | None:
        now = self._clock()
        later = [document_id for document_id, at in self._put_off.items() if at > now]
        with self._database.session() as session:
            query = select(Document).order_by(col(Document.updated)).limit(1)
            going = query.where(Document.state == DocumentState.DELETING, col(Document.id).not_in(later))
            queued = query.where(col(Document.state).in_(PENDING))
            return session.exec(going).first() or session.exec(queued).first()

    def _read(self, document: Document) -> None:
        token = self._signals.begin(document.id)
        try:
            self._builder.read(document, token)
            self._attempts.pop(document.id, None)
        except CancelledError:
            pass  # whoever cancelled changed the row first: it is failed, going, or queued anew
        except Exception as error:
            named = named_failure(error)
            if token.cancelled:
                return
            if isinstance(named, StorageError):
                raise
            if isinstance(named, UnavailableError) and self._worth_another_try(document):
                raise
            if named is None:
                log.exception("document %s failed", document.id)
            self._fail(document, named)
        finally:
            self._signals.end()

    def _worth_another_try(self, document: Document) -> bool:
        """Whether a document that lost its engine is tried once more: it may be what ends it."""
        attempts = self._attempts[document.id] = self._attempts.get(document.id, 0) + 1
        return attempts < ATTEMPTS

    def _fail(self, document: Document, error: TenfoldError | None) -> None:
        self._attempts.pop(document.id, None)
        reason = error.message if error else UNKNOWN
        self._documents.update(document.id, only_from=PENDING, state=DocumentState.FAILED, reason=reason)

    def _erase(self, document: Document) -> None:
        try:
            self._builder.removal.erase(document)
            self._put_off.pop(document.id, None)
        except Exception as error:
            if isinstance(named_failure(error), StorageError):
                raise
            log.exception("document %s cannot be taken away yet", document.id)
            self._put_off[document.id] = self._clock() + LONGEST_PAUSE


def _said(error: Exception) -> str:
    named = named_failure(error)
    return named.message if named else "Something went wrong; the server's log says what."
