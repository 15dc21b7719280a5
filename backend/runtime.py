"""The composition root: the only file that builds the rooms and wires them to each other."""

from __future__ import annotations

import time

from backend.access.access import Access
from backend.batches.deliveries import Deliveries
from backend.batches.service import Batches
from backend.batches.webhooks import Webhooks
from backend.chats.conversations import Conversations
from backend.engine.messages import BATCH, REALTIME, Stats
from backend.engine.protocol import EngineClient
from backend.engines import local_engine
from backend.errors import UnavailableError
from backend.files.blobs import Blobs
from backend.files.catalogue import Catalogue
from backend.files.data_folder import DataFolder
from backend.generation.answers import AnswerCache
from backend.generation.service import GenerationService
from backend.jobs.service import Jobs
from backend.knowledge.build import Builder
from backend.knowledge.collections import Collections
from backend.knowledge.documents import Documents
from backend.knowledge.embeddings import EmbeddingService
from backend.knowledge.index import KnowledgeIndex
from backend.knowledge.opening import IndexOpening
from backend.knowledge.plan import Planner
from backend.knowledge.reader import Reader
from backend.knowledge.retrieve import Retriever
from backend.knowledge.samples import Samples
from backend.knowledge.signals import ReaderSignals
from backend.knowledge.uploads import Uploads
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
from backend.switchboard.service import Switchboard
from backend.switchboard.worth_live import LiveWorth
from backend.switchboard.worth_traffic import Waiting

_current: Runtime | None = None


class Runtime:
    """Everything a page or a route may ask for."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.started = time.time()
        self._storage = Storage(settings)
        self.database = self._storage.database
        self.data_folder = DataFolder(settings, self.database)
        self.access = Access.of(settings, self.database)
        self.prices = Prices(settings, self.database)
        self.series = StatsSeries()
        self.happenings = Happenings(self.database)
        self.switchboard = Switchboard(self.database, lambda: self.engine, self.happenings)
        self._local = local_engine(settings, self.switchboard, self._hear, self.happenings)
        self.engine: EngineClient = self._local
        self.texts = Texts(self.engine)
        self.metrics = Metrics(self.engine, settings.served_model)
        self.ledger = Ledger(self.database, self.prices, self.metrics, keep_days=settings.ledger_days)
        self.ledger.on_entry(log_request)
        keys, queries = self.access.keys, self.ledger.queries
        self.budgets = Budgets(self.database, queries, keys.limits, keys.shown, self.happenings)
        self.ledger.on_entry(self.budgets.observe)
        tokenizer, name = self.texts.embedding_tokenizer, settings.served_embedding_model
        self.embeddings = EmbeddingService(self.engine, tokenizer, self.database, self.ledger, name)
        self.index = KnowledgeIndex(settings.index_dir, self.database, self.embeddings)
        self._opening = IndexOpening(self.engine, self.index)
        signals, blobs = ReaderSignals(), Blobs(settings.files_dir)
        self.files = Catalogue(self.database, Blobs(settings.api_files_dir), settings.max_file_mb << 20)
        self.documents = Documents(self.database, signals)
        self.collections = Collections(self.database)
        self.uploads = Uploads(settings, self.database, blobs, self.collections, signals)
        self.samples = Samples(self.uploads)
        builder = Builder(settings, self.database, blobs, self.documents, self.embeddings, self.index, self.texts)
        self.reader = Reader(self.database, blobs, self.documents, builder, self.index, signals)
        self.planner = Planner(self.database, builder, self.ledger, self.prices)
        seen, version = (self.documents, self.collections), builder.index_version
        self.retriever = Retriever(*seen, self.embeddings, self.index, version, self.texts, self.engine)
        self.answers = AnswerCache(self.database, self.embeddings.vectors)
        self.generations = GenerationService(
            self.engine, self.texts.text, self.ledger, self.answers, settings.served_model,
            default_max_tokens=settings.default_max_tokens,
            max_waiting={REALTIME: settings.max_waiting_realtime, BATCH: settings.max_waiting_batch},
            admit=self.budgets.check,
        )  # fmt: skip
        bind(
            self.metrics, self.prices, self.ledger, self.database, self.budgets, lambda: keys.limited,
            self.generations.refusals,
        )  # fmt: skip
        self.presets = PresetMeasuring(lambda: self.engine, self.switchboard, self.generations, self.database)
        self.worth = LiveWorth(
            lambda: self.engine, self.switchboard, self.ledger, self.database, self.happenings,
            lambda: [Waiting(*one) for one in self.generations.unended()],
        )  # fmt: skip
        self.conversations = Conversations(self.database, self.generations, self.retriever, self.embeddings)
        self.jobs = Jobs(self.database, self.generations, self.retriever.ground_for_job)
        writing, embedding = settings.served_model, settings.served_embedding_model
        served = {"/v1/chat/completions": writing, "/v1/completions": writing, "/v1/embeddings": embedding}
        self.webhooks = Webhooks(self.database, settings.webhook_origins)
        self._deliveries = Deliveries(self.database, self.webhooks)
        self.batches = Batches(
            self.database, self.files, self.generations, served, settings.max_batch_requests,
            ended=self._deliveries.wake,
        )  # fmt: skip

    def _hear(self, stats: Stats) -> None:
        self.series.add(stats)
        self.ledger.heard(stats)

    @property
    def notice(self) -> str:
        """What is being done in the background, for the console."""
        return self._opening.notice

    def open(self) -> None:
        """Start the engine and everything that works in the background; returns at once."""
        self.ledger.open()
        self.budgets.load()
        self._local.start()
        self._opening.start()
        self.reader.start()
        self.jobs.start()
        self._deliveries.start()

    def close(self) -> None:
        """End everything in order; unfinished work goes on at the next start."""
        self.presets.close()
        self.worth.close()
        self._opening.close()
        self.jobs.close()
        self.batches.close()
        self._deliveries.close()
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
    if _current is not None:
        return _current
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
