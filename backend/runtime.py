"""The composition root: the only file that wires the rooms to each other, and opens and closes them in order."""

from __future__ import annotations

import time

from backend.access.access import Access
from backend.batches.room import BatchRoom
from backend.chats.conversations import Conversations
from backend.engine.messages import BATCH, REALTIME, Stats
from backend.engine.protocol import EngineClient
from backend.engines import local_engine
from backend.errors import UnavailableError
from backend.files.data_folder import DataFolder
from backend.generation.answers import AnswerCache
from backend.generation.service import GenerationService
from backend.jobs.service import Jobs
from backend.knowledge.library import Library
from backend.lab.presets import PresetMeasuring
from backend.metering.bindings import bind
from backend.metering.budgets import Budgets
from backend.metering.happenings import Happenings
from backend.metering.ledger import Ledger
from backend.metering.metrics import Metrics
from backend.metering.prices import Prices
from backend.metering.request_log import log_request
from backend.metering.series import StatsSeries
from backend.models.texts import Texts
from backend.settings import Settings
from backend.store.folder import Storage
from backend.switchboard.borrowed_run import BorrowedRuns
from backend.switchboard.service import Switchboard
from backend.switchboard.worth_live import LiveWorth
from backend.switchboard.worth_traffic import Waiting

_current: Runtime | None = None


class Runtime:
    """Everything a page or a route may ask for."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.started = settings, time.time()
        self._storage = Storage(settings)
        self.database = self._storage.database
        self.data_folder = DataFolder(settings, self.database)
        self.access = Access.of(settings, self.database)
        self.prices = Prices(settings, self.database)
        self.series, self.happenings = StatsSeries(), Happenings(self.database)
        self.switchboard = Switchboard(self.database, lambda: self.engine, self.happenings)
        self._local = local_engine(settings, self.switchboard, self._hear, self.happenings)
        self.engine: EngineClient = self._local
        self.texts = Texts(self.engine)
        self.metrics = Metrics(self.engine, settings.served_model)
        self.ledger = Ledger(
            self.database, self.prices, self.metrics, keep_days=settings.ledger_days, tell=self.happenings.unstored
        )
        self.ledger.on_entry(log_request)
        keys = self.access.keys
        self.budgets = Budgets(self.database, self.ledger.queries, keys.limits, keys.shown, self.happenings)
        self.ledger.on_entry(self.budgets.observe)
        library = self._library = Library.of(settings, self.database, self.engine, self.texts, self.ledger, self.prices)
        self.embeddings, self.index, self.retriever = library.embeddings, library.index, library.retriever
        self.documents, self.collections, self.reader = library.documents, library.collections, library.reader
        self.uploads, self.samples, self.planner = library.uploads, library.samples, library.planner
        self.answers = AnswerCache(self.database, self.embeddings.vectors)
        self.generations = GenerationService(
            self.engine, self.texts.text, self.ledger, self.answers, settings.served_model,
            default_max_tokens=settings.default_max_tokens,
            max_waiting={REALTIME: settings.max_waiting_realtime, BATCH: settings.max_waiting_batch},
            admit=self.budgets.check,
        )  # fmt: skip
        measured = self.metrics, self.prices, self.ledger, self.database, self.budgets
        bind(*measured, lambda: keys.limited, self.generations.refusals)
        self._runs = BorrowedRuns(lambda: self.engine, self.switchboard)
        self.presets = PresetMeasuring(lambda: self.engine, self._runs, self.generations, self.database)
        self.worth = LiveWorth(
            lambda: self.engine, self.switchboard, self._runs, self.ledger, self.database, self.happenings,
            lambda: [Waiting(*one) for one in self.generations.unended()],
        )  # fmt: skip
        answering = self.database, self.generations
        self.conversations = Conversations(*answering, self.retriever, self.embeddings, self.budgets.take)
        self.jobs = Jobs(*answering, self.retriever.ground_for_job, self.budgets.check)
        self._batching = batching = BatchRoom.of(settings, self.database, self.generations)
        self.files, self.batches, self.webhooks = batching.files, batching.service, batching.webhooks

    def _hear(self, stats: Stats) -> None:
        self.series.add(stats)
        self.ledger.heard(stats)

    @property
    def notice(self) -> str:
        """What is being done in the background, for the console."""
        return self._library.opening.notice

    def open(self) -> None:
        """Start the engine and everything that works in the background; returns at once."""
        self.ledger.open()
        self.budgets.load()
        self._local.start()
        self._library.start()
        self.jobs.start()
        self._batching.start()

    def close(self) -> None:
        """End everything in order; unfinished work goes on at the next start."""
        self._runs.close()
        self._library.opening.close()
        self.jobs.close()
        self._batching.close()
        self.reader.close()
        self.generations.close()
        self.index.close()
        self._local.stop()
        self.ledger.close()
        self.switchboard.close()
        self.access.close()
        self._storage.close()

    def restart_engine(self) -> None:
        """Start an engine that is not running, or end a running one so that it is brought back."""
        self._local.restart()


def open_runtime(settings: Settings | None = None) -> Runtime:
    """Build and start the runtime of this process."""
    global _current
    if _current is None:
        _current = Runtime(settings or Settings())
        _current.open()
    return _current


def close_runtime() -> None:
    """End the runtime of this process."""
    global _current
    runtime, _current = _current, None
    if runtime is not None:
        runtime.close()


def current() -> Runtime:
    """The runtime of this process.

    Raises:
        UnavailableError: the server is starting or stopping.
    """
    if _current is None:
        raise UnavailableError("The server is starting.")
    return _current
