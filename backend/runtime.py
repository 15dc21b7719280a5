"""The composition root: the only file that builds the rooms and wires them to each other."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tokenizers import Tokenizer

from backend.api.keys import ApiKeys
from backend.engine.client import EngineClient, LocalEngine
from backend.engine.config import EngineConfig
from backend.engine.switches import InvalidSwitchError, Switches
from backend.errors import TenfoldError, UnavailableError
from backend.generation.answers import AnswerCache
from backend.generation.conversations import Conversations
from backend.generation.service import GenerationService
from backend.jobs.service import Jobs
from backend.knowledge.chunk import Chunker
from backend.knowledge.documents import Documents
from backend.knowledge.embeddings import EmbeddingService
from backend.knowledge.index import KnowledgeIndex
from backend.knowledge.ingest import Ingest
from backend.knowledge.retrieve import Retriever
from backend.metering.ledger import Ledger
from backend.metering.metrics import Metrics
from backend.metering.prices import Prices
from backend.metering.series import StatsSeries
from backend.models.checkpoint import ModelNotFoundError
from backend.models.text import TextModel
from backend.settings import SAMPLES, Settings
from backend.store.database import Database
from backend.store.tables import Setting

log = logging.getLogger(__name__)

SWITCHES_KEY = "switches"
_current: Runtime | None = None


class DataDirInUseError(TenfoldError):
    """Another server works in the same data folder."""


class Runtime:
    """Everything a page or a route may ask for."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.started = time.time()
        self.notice = ""  # what is being done in the background, for the console
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(settings.data_dir / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise DataDirInUseError(
                f"Another Tenfold server works in {settings.data_dir}. Stop it, or set TENFOLD_DATA_DIR."
            ) from None
        self.database = Database(settings.sql_url)
        self.database.migrate()
        self.keys = ApiKeys(self.database)
        self.prices = Prices(settings, self.database)
        self.series = StatsSeries()
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
                switches=self._stored_switches(),
            ),
            on_stats=self.series.add,
        )
        self.engine: EngineClient = engine
        self._local = engine
        self.metrics = Metrics(self.engine)
        self.ledger = Ledger(self.database, self.prices, self.metrics)
        self.embeddings = EmbeddingService(
            self.engine, self.embedding_tokenizer, self.database, self.ledger, settings.served_embedding_model
        )
        self.index = KnowledgeIndex(settings.index_dir, self.database, self.embeddings)
        self.documents = Documents(settings, self.database)
        self.ingest = Ingest(
            settings, self.database, self.documents, self.embeddings, self.index, self.chunker,
            self.ledger.embedding_rate, lambda: self.prices.current.per_hour,
        )  # fmt: skip
        self.retriever = Retriever(
            self.documents,
            self.embeddings,
            self.index,
            self.text,
            lambda: int(self.engine.info["max_model_len"]),
            lambda: self.engine.switches,
            lambda: self.ingest.index_version,
        )
        self.answers = AnswerCache(
            self.database, lambda texts: self.embeddings.embed(texts, source="console").vectors
        )
        self.generations = GenerationService(
            self.engine, self.text, self.ledger, self.answers, settings.served_model, settings.default_max_tokens
        )
        self.conversations = Conversations(
            self.database,
            self.generations,
            lambda question, history, collection, system: self.retriever.ground(
                question, history, collection or None, system, source="console"
            ),
        )
        self.jobs = Jobs(
            self.database,
            self.generations,
            lambda question, system: self.retriever.ground(question, [], None, system, source="job"),
        )
        self._texts: dict[str, TextModel] = {}
        self._tokenizers: dict[str, Tokenizer] = {}

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
            if self.engine.state.phase == "stopped":
                return
            time.sleep(1)
        try:
            info = self.engine.info
            self.index.open(info["embedding_fingerprint"][:16], info["embedding_dimension"], self._report)
        except Exception:
            log.exception("the search index could not be opened")
            self.notice = "The search index could not be opened; see the log."
            return
        self.notice = ""

    def _report(self, notice: str) -> None:
        self.notice = notice

    def close(self) -> None:
        """End everything in order; unfinished work goes on at the next start."""
        self.jobs.close()
        self.ingest.close()
        self.generations.close()
        self.index.close()
        self._local.stop()
        self.ledger.close()
        self.database.close()
        self._lock.release()

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
            self.documents.upload(path.name, [path.read_bytes()])

    # ---- models as text ------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether the models' properties are known (they stay known while an engine is restarted)."""
        return bool(self.engine.info)

    def unavailable(self) -> UnavailableError:
        """Why nothing can be answered now."""
        return UnavailableError(self.engine.state.detail or "The model is being loaded; retry in a few seconds.")

    def text(self) -> TextModel:
        """Tokenizer and chat template of the language model.

        Raises:
            UnavailableError: the model is still being loaded, or could not be.
        """
        if not self.ready and not self.engine.wait_ready(20):
            raise self.unavailable()
        folder = self.engine.info["model_folder"]
        if folder not in self._texts:
            try:
                self._texts[folder] = TextModel(Path(folder))
            except ModelNotFoundError as error:
                raise UnavailableError(str(error)) from error
        return self._texts[folder]

    def embedding_tokenizer(self) -> Tokenizer:
        """Tokenizer of the embedding model; raises as `text` does."""
        if not self.ready and not self.engine.wait_ready(20):
            raise self.unavailable()
        folder = self.engine.info["embedding_folder"]
        if folder not in self._tokenizers:
            tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
            tokenizer.no_truncation()
            tokenizer.no_padding()
            self._tokenizers[folder] = tokenizer
        return self._tokenizers[folder]

    def chunker(self) -> Chunker:
        """How documents are cut under the settings in force."""
        return Chunker(self.embedding_tokenizer(), self.settings.chunk_tokens)

    # ---- switches ------------------------------------------------------------------------------------------------

    def _stored_switches(self) -> Switches:
        with self.database.session() as session:
            stored = session.get(Setting, SWITCHES_KEY)
        try:
            return Switches().updated(stored.value) if stored else Switches()
        except InvalidSwitchError:  # written by another version
            log.warning("the stored switches are not understood; the defaults are used")
            return Switches()

    def set_switches(self, changes: dict[str, Any]) -> Switches:
        """Change switches now and for the next start.

        Raises:
            InvalidSwitchError: says which and what is allowed.
        """
        switches = self.engine.switches.updated(changes)
        self.engine.set_switches(switches)
        with self.database.session() as session:
            session.merge(Setting(key=SWITCHES_KEY, value=switches.as_dict()))
        return switches


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
    """What the schedule calls; its import path is stored with every schedule, so it must not move."""
    current().jobs.run(job_id)
