"""Opens the index once the engine says which embedding model serves, in the background of a start."""

from __future__ import annotations

import threading
import time

from backend.engine.protocol import EngineClient, Phase
from backend.knowledge.index import KnowledgeIndex


class IndexOpening:
    """Waits for the engine, then opens the index, and tries again where that fails."""

    def __init__(self, engine: EngineClient, index: KnowledgeIndex) -> None:
        self._engine, self._index = engine, index
        self._closing = threading.Event()
        self._notice = ""

    @property
    def notice(self) -> str:
        """What is being done, for whoever waits; empty once it is open."""
        return "" if self._index.opened else self._notice

    def start(self) -> None:
        """Begin; returns at once."""
        threading.Thread(target=self._work, name="open-index", daemon=True).start()

    def close(self) -> None:
        """Try no more."""
        self._closing.set()

    def _work(self) -> None:
        import chromadb  # noqa: F401 - takes a second, while the engine loads

        while not self._engine.wait_ready(3600):
            if self._engine.state.phase is Phase.STOPPED:
                return
            time.sleep(1)
        info = self._engine.known()
        assert info.embedding_fingerprint is not None and info.embedding_dimension is not None
        self._index.keep_opening(
            info.embedding_fingerprint[:16], info.embedding_dimension, self._report, self._closing.wait
        )

    def _report(self, notice: str) -> None:
        self._notice = notice
