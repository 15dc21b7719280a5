"""Tokenizers and chat templates of the models that serve, each loaded once however many ask at the same moment."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from tokenizers import Tokenizer

from backend.engine.about import EngineInfo
from backend.engine.protocol import EngineClient
from backend.errors import ModelFailedError
from backend.models.checkpoint import ModelError, load_tokenizer
from backend.models.text import TextModel

Value = TypeVar("Value")
Key = tuple[str, str | None, int]
"""Folder, fingerprint, and the engine's process."""
PATIENCE = 20.0
"""Seconds a caller waits for an engine that is being started."""


class _Latest(Generic[Value]):
    """What was made of the folder asked for last."""

    def __init__(self, make: Callable[[Path], Value]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._held: tuple[Key, Value] | None = None

    def of(self, key: Key) -> Value:
        """It, made anew where the key is another.

        Raises:
            ModelFailedError: it cannot be made.
        """
        with self._lock:
            if self._held is None or self._held[0] != key:
                try:
                    self._held = key, self._make(Path(key[0]))
                except ModelError as error:
                    raise ModelFailedError(str(error)) from error
            return self._held[1]


class Texts:
    """The texts of what an engine's process has loaded: a folder may hold another model by the time of the next."""

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine
        self._text = _Latest(lambda folder: TextModel(folder))
        self._tokenizer = _Latest(lambda folder: load_tokenizer(folder))

    @property
    def ready(self) -> bool:
        """Whether the models' properties are known (they stay known while an engine is restarted)."""
        return self._engine.info is not None

    def text(self) -> TextModel:
        """Tokenizer and chat template of the language model.

        Raises:
            UnavailableError: the model is still being loaded.
            ModelFailedError: it could not be, or is damaged.
        """
        info = self._info()
        return self._text.of((info.model_folder, info.fingerprint, info.pid))

    def embedding_tokenizer(self) -> Tokenizer:
        """Tokenizer of the embedding model; raises as `text` does."""
        info = self._info()
        if info.embedding_folder is None:
            raise ModelFailedError("No embedding model is loaded. Set TENFOLD_EMBEDDING_MODEL.")
        return self._tokenizer.of((info.embedding_folder, info.embedding_fingerprint, info.pid))

    def _info(self) -> EngineInfo:
        if not self.ready:
            self._engine.wait_ready(PATIENCE)
        return self._engine.known()
