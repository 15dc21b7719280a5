"""The knowledge room without the product: real SQLite, Chroma, parser and tokenizer; the engine is made up."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event
from tokenizers import Tokenizer

from backend.engine.about import EngineInfo
from backend.engine.protocol import EngineState, Phase
from backend.engine.switches import Switches
from backend.files.blobs import Blobs
from backend.knowledge.build import Builder
from backend.knowledge.collections import Collections
from backend.knowledge.documents import Documents
from backend.knowledge.embeddings import EmbeddingService
from backend.knowledge.index import KnowledgeIndex
from backend.knowledge.reader import Reader, ReaderPhase
from backend.knowledge.sight import SHARED, Sight
from backend.knowledge.signals import ReaderSignals
from backend.knowledge.uploads import Uploads
from backend.metering.entry import Asked
from backend.models.checkpoint import resolve
from backend.packaged import EMBEDDING_MODEL
from backend.settings import Settings
from backend.store.database import Database
from backend.store.tables.documents import Document
from tests.conftest import until
from tests.engine.fake_engine import INFO
from tests.generation.conftest import room, text

__all__ = ["room", "text"]

DIMENSION = 16
EVERYTHING = Sight(None, everything=True)


class MadeUpEngine:
    """The engine's process: vectors by a hash of the tokens; it can be held, and can be away."""

    def __init__(self) -> None:
        self.info = replace(
            INFO, embedding_fingerprint="f" * 32, embedding_max_tokens=256, embedding_dimension=DIMENSION
        )
        self.switches = self.in_force = Switches()
        self.present = True
        self.calls: list[list[list[int]]] = []
        self.failures: list[BaseException] = []  # raised by the next calls
        self.gate = threading.Event()
        self.gate.set()

    @property
    def state(self) -> EngineState:
        return EngineState(Phase.READY) if self.present else EngineState(Phase.FAILED, "no such tensor")

    def wait_ready(self, timeout: float) -> bool:
        return self.present

    def known(self) -> EngineInfo:
        return self.info

    def embed(self, token_ids: list[list[int]], path: str) -> Future[tuple[np.ndarray, float]]:
        self.calls.append(token_ids)
        if self.failures:
            raise self.failures.pop(0)
        answer: Future[tuple[np.ndarray, float]] = Future()

        def work() -> None:
            self.gate.wait(60)
            seeds = [int(hashlib.sha256(repr(ids).encode()).hexdigest()[:8], 16) for ids in token_ids]
            rows = [np.random.default_rng(seed).normal(size=DIMENSION) for seed in seeds]
            vectors = np.stack(rows).astype(np.float32)
            if not answer.set_running_or_notify_cancel():
                return
            answer.set_result((vectors / np.linalg.norm(vectors, axis=1, keepdims=True), 0.001))

        threading.Thread(target=work, daemon=True).start()
        return answer


class Knowledge:
    """Everything between an upload and a search."""

    def __init__(self, folder: Path, tokenizer: Tokenizer) -> None:
        self.settings = Settings(data_dir=folder, parse_timeout_s=60, chunk_tokens=64)
        self.database = Database(self.settings.sql_url)
        self.database.migrate()
        event.listen(self.database.engine, "connect", _impatient)
        self.database.engine.dispose()
        self.engine = MadeUpEngine()
        self.asked: list[Asked] = []
        ledger: Any = SimpleNamespace(record_embedding=self._book)
        engine: Any = self.engine
        self.embeddings = EmbeddingService(engine, lambda: tokenizer, self.database, ledger, "minilm")
        self.index = KnowledgeIndex(self.settings.index_dir, self.database, self.embeddings)
        self.signals = ReaderSignals()
        self.blobs = Blobs(self.settings.files_dir)
        self.documents = Documents(self.database, self.signals)
        self.collections = Collections(self.database)
        self.uploads = Uploads(self.settings, self.database, self.blobs, self.collections, self.signals)
        self.builder = Builder(
            self.settings, self.database, self.blobs, self.documents, self.embeddings, self.index,
            SimpleNamespace(embedding_tokenizer=lambda: tokenizer),
        )
        self.pauses: list[float] = []
        self.reader = Reader(
            self.database, self.blobs, self.documents, self.builder, self.index, self.signals, pause=self._pause
        )

    def _book(self, asked: Asked, **_: Any) -> Any:
        self.asked.append(asked)
        return SimpleNamespace(cost=0.0)

    def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        time.sleep(0.05)

    def start(self) -> None:
        self.index.open("f" * 16, DIMENSION)
        self.reader.start()

    def close(self) -> None:
        self.engine.gate.set()
        self.reader.close()
        self.index.close()
        self.database.close()

    def upload(self, name: str, text: str, collection: str = "default", sight: Sight = SHARED) -> Document:
        return self.uploads.upload(name, [text.encode()], sight, collection)

    def state(self, document: Document) -> str:
        return str(self.documents.get(document.id, EVERYTHING).state)

    def wait(self, document: Document, state: str = "ready") -> Document:
        until(lambda: self.state(document) == state, f"{document.name} is {state}")
        return self.documents.get(document.id, EVERYTHING)

    def wait_phase(self, phase: ReaderPhase, condition: Callable[[], bool] = lambda: True) -> None:
        until(lambda: self.reader.state.phase == phase and condition(), f"the reader is {phase}")


def _impatient(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA busy_timeout=50")


@pytest.fixture(scope="session")
def tokenizer(cache_dir: Path) -> Tokenizer:
    """The packaged embedding model's."""
    made = Tokenizer.from_file(str(Path(resolve(EMBEDDING_MODEL, cache_dir)) / "tokenizer.json"))
    made.no_truncation()
    made.no_padding()
    return made


@pytest.fixture
def knowledge(tmp_path: Path, tokenizer: Tokenizer) -> Iterator[Knowledge]:
    """The room, its reader started."""
    made = Knowledge(tmp_path / "data", tokenizer)
    made.start()
    yield made
    made.close()
