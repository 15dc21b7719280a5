"""The generation room over a stand-in engine: real tokenizer, real database, no model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import event

from backend.engine.messages import BATCH, REALTIME
from backend.generation.answers import AnswerCache
from backend.generation.service import GenerationService
from backend.metering.ledger import Ledger
from backend.metering.metrics import Metrics
from backend.metering.prices import Prices
from backend.models.text import TextModel
from backend.settings import Settings
from backend.store.database import Database
from tests.generation.standin import StandInEngine


class Room:
    """A generation service and what stands around it."""

    def __init__(
        self, folder: Path, text: TextModel, *, context: int = 2048, most: int = 100, busy_ms: int = 20
    ) -> None:
        self.database = Database(f"sqlite:///{folder / 'room.sqlite3'}")
        event.listen(self.database.engine, "connect", lambda c, _: c.execute(f"PRAGMA busy_timeout={busy_ms}"))
        self.database.migrate()
        self.engine = StandInEngine(text, context)
        self.metrics = Metrics(self.engine, "model")
        self.prices = Prices(Settings(data_dir=folder, price_per_hour=3600.0), self.database)
        self.metrics.bind_price(lambda: self.prices.current)
        self.ledger = Ledger(self.database, self.prices, self.metrics)
        self.embedded: list[tuple[str, str, str]] = []  # question, source, path
        self.answers = AnswerCache(self.database, self._embed)
        self.service = GenerationService(
            self.engine, lambda: text, self.ledger, self.answers, "model",
            default_max_tokens=64, max_waiting={REALTIME: most, BATCH: most},
        )  # fmt: skip

    def _embed(self, texts: list[str], source: str, path: str, key_id: str) -> np.ndarray:
        self.embedded += [(text, source, path) for text in texts]
        return np.ones((len(texts), 4), dtype=np.float32) / 2  # all questions are alike

    def close(self) -> None:
        self.service.close()
        self.ledger.close()
        self.database.close()


@pytest.fixture(scope="session")
def text(chat_folder: Path) -> TextModel:
    return TextModel(chat_folder)


@pytest.fixture
def room(tmp_path: Path, text: TextModel) -> Iterator[Room]:
    room = Room(tmp_path, text)
    yield room
    room.close()
