"""The composition root: the only file that builds the rooms and wires them to each other."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from tokenizers import Tokenizer

from backend.access.access import Access
from backend.engine.client import LocalEngine
from backend.engine.config import EngineConfig
from backend.engine.messages import BATCH, REALTIME
from backend.engine.protocol import EngineClient, Phase
from backend.engine.switches import Switches
from backend.errors import UnavailableError
from backend.files.blobs import Blobs
from backend.generation.answers import AnswerCache
from backend.generation.conversations import Conversations
from backend.generation.service import GenerationService
from backend.jobs.service import Jobs
from backend.knowledge.build import Builder
from backend.knowledge.chunk import Chunker
from backend.knowledge.collections import Collections
from backend.knowledge.documents import Documents
from backend.knowledge.embeddings import EmbeddingService
from backend.knowledge.index import KnowledgeIndex
from backend.knowledge.plan import Planner
from backend.knowledge.reader import Reader
from backend.knowledge.retrieve import Retriever
from backend.knowledge.signals import ReaderSignals
from backend.knowledge.uploads import Uploads
from backend.metering.ledger import Ledger
from backend.metering.metrics import Metrics
from backend.metering.prices import Prices
from backend.metering.series import StatsSeries
from backend.models.text import TextModel
from backend.models.texts import Texts
from backend.settings import SAMPLES, Settings
from backend.store.folder import Storage
from backend.switchboard.service import Switchboard

log = logging.getLogger(__name__)

_current: Runtime | None = None


class Runtime:
    """Everything a page or a route may ask for."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.started = time.time()
        self._closing = threading.Event()
        self.notice = ""  # what is being done in the background, for the console
        self._storage = Storage(settings)
        self.database = self._storage.database
        self.access = Access.of(settings, self.database)
        self.prices = Prices(settings, self.database)
        self.series = StatsSeries()
        self.switchboard = Switchboard(self.database, lambda: self.engine)
        engine = LocalEngine(
            EngineConfig(
                model=settings.model,
                embedding_model=settings.embedding_model,
                quantize_embeddings=settings.quantize_embeddings,
                cache_dir=settings.cache_dir,
                prefix_dir=settings.data_dir / "prefix",
                prefix_disk_bytes=settings.prefix_disk_mb << 20,
                device=settings.device,
                kv_cache_bytes=settings.kv_cache_mb << 20,
                max_model_len=settings.max_model_len,
                token_budget=settings.token_budget,
                threads=settings.threads,
                use_kernels=settings.use_kernels,
                hub_kernels=settings.hub_kernels,
                switches=self.switchboard.stored,
            ),
            on_stats=self.series.add,
            on_applied=self.switchboard.keep,
            hang_limit=settings.engine_hang_s,
        )
        self.engine: EngineClient = engine
        self._local = engine
        self._texts = Texts(self.engine)
        self.metrics = Metrics(self.engine)
        self.ledger = Ledger(self.database, self.prices, self.metrics)
        self.embeddings = EmbeddingService(
            self.engine, self.embedding_tokenizer, self.database, self.ledger, settings.served_embedding_model
        )
        self.index = KnowledgeIndex(settings.index_dir, self.database, self.embeddings)
        signals, blobs = ReaderSignals(), Blobs(settings.files_dir)
        self.documents = Documents(self.database, signals)
        self.collections = Collections(self.database)
        self.uploads = Uploads(settings, self.database, blobs, self.collections, signals)
        builder = Builder(
            settings, self.database, blobs, self.documents, self.embeddings, self.index, self.chunker
        )
        self.ingest = Reader(self.database, blobs, self.documents, builder, self.index, signals)
        self.planner = Planner(
            self.database, builder.version, self.ledger.embedding_rate, lambda: self.prices.current.per_hour
        )
        self.retriever = Retriever(
            self.documents,
            self.collections,
            self.embeddings,
            self.index,
            self.text,
            lambda: self.engine.known().max_model_len,
            lambda: self.engine.switches,
            lambda: self.ingest.index_version,
        )
        self.answers = AnswerCache(
            self.database,
            lambda texts, source, path: self.embeddings.embed(texts, source=source, path=path).vectors,
        )
        self.generations = GenerationService(
            self.engine, self.text, self.ledger, self.answers, settings.served_model,
            default_max_tokens=settings.default_max_tokens,
            max_waiting={REALTIME: settings.max_waiting_realtime, BATCH: settings.max_waiting_batch},
        )  # fmt: skip
        self.conversations = Conversations(
            self.database,
            self.generations,
            lambda question, history, collection, system, answer: self.retriever.ground(
                question, history, collection or None, system, max_tokens=answer, source="console"
            ),
        )
        self.jobs = Jobs(
            self.database,
            self.generations,
            lambda question, system, answer: self.retriever.ground(
                question, [], None, system, max_tokens=answer, source="job"
            ),
        )

    # ---- life ----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Start the engine and everything that works in the background; returns at once."""
        self._local.start()
        threading.Thread(target=self._open_index, name="open-index", daemon=True).start()
        self.ingest.start()
        self.jobs.start()

    def _open_index(self) -> None:
        import chromadb  # noqa: F401 - takes a second, while the engine loads

        while not self.engine.wait_ready(3600):
            if self.engine.state.phase is Phase.STOPPED:
                return
            time.sleep(1)
        info = self.engine.known()
        assert info.embedding_fingerprint is not None and info.embedding_dimension is not None
        self.index.keep_opening(
            info.embedding_fingerprint[:16], info.embedding_dimension, self._report, self._closing.wait
        )
        if self.index.opened:
            self.notice = ""

    def _report(self, notice: str) -> None:
        self.notice = notice

    def close(self) -> None:
        """End everything in order; unfinished work goes on at the next start."""
        self._closing.set()
        self.jobs.close()
        self.ingest.close()
        self.generations.close()
        self.index.close()
        self._local.stop()
        self.switchboard.close()
        self.access.close()
        self._storage.close()

    def restart_engine(self) -> None:
        """Start an engine that is not running, or end a running one so that it is brought back."""
        self._local.restart()

    # ---- sample documents ----------------------------------------------------------------------------------------

    @staticmethod
    def sample_names() -> list[str]:
        """Names of the sample documents that are shipped."""
        return [path.name for path in sorted(SAMPLES.iterdir())]

    def load_samples(self) -> None:
        """Upload the sample documents."""
        for path in sorted(SAMPLES.iterdir()):
            self.uploads.upload(path.name, [path.read_bytes()])

    # ---- models as text ------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """See `Texts.ready`."""
        return self._texts.ready

    def text(self) -> TextModel:
        """See `Texts.text`."""
        return self._texts.text()

    def embedding_tokenizer(self) -> Tokenizer:
        """See `Texts.embedding_tokenizer`."""
        return self._texts.embedding_tokenizer()

    def chunker(self) -> Chunker:
        """How documents are cut under the settings in force."""
        return Chunker(self.embedding_tokenizer(), self.settings.chunk_tokens)

    # ---- switches ------------------------------------------------------------------------------------------------

    def set_switches(self, changes: dict[str, Any]) -> Switches:
        """See `Switchboard.change`."""
        return self.switchboard.change(changes)


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


def fire_job(job_id: str) -> None:
    """Run a job if its time has come; schedules that earlier versions stored name this path, so it must not move."""
    current().jobs.fire(job_id)
