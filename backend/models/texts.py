"""Tokenizers and chat templates of the models that serve, each loaded once however many ask at the same moment."""

from __future__ import annotations

import threading
from pathlib import Path

from tokenizers import Tokenizer

from backend.engine.messages import EngineInfo
from backend.engine.protocol import EngineClient
from backend.errors import ModelFailedError
from backend.models.checkpoint import ModelError, load_tokenizer
from backend.models.text import TextModel

Key = tuple[str, str | None, int]
"""Folder, fingerprint, and the engine's process."""
PATIENCE = 20.0
"""Seconds a caller waits for an engine that is being started."""


class Texts:
    """The texts of what an engine's process has loaded: a folder may hold another model by the time of the next."""

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._text: tuple[Key, TextModel] | None = None
        self._tokenizer: tuple[Key, Tokenizer] | None = None

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
        key = info.model_folder, info.fingerprint, info.pid
        with self._lock:
            if self._text is None or self._text[0] != key:
                try:
                    self._text = key, TextModel(Path(info.model_folder))
                except ModelError as error:
                    raise ModelFailedError(str(error)) from error
            return self._text[1]

    def embedding_tokenizer(self) -> Tokenizer:
        """Tokenizer of the embedding model; raises as `text` does."""
        info = self._info()
        if info.embedding_folder is None:
            raise ModelFailedError("No embedding model is loaded. Set TENFOLD_EMBEDDING_MODEL.")
        key = info.embedding_folder, info.embedding_fingerprint, info.pid
        with self._lock:
            if self._tokenizer is None or self._tokenizer[0] != key:
                try:
                    self._tokenizer = key, load_tokenizer(Path(info.embedding_folder))
                except ModelError as error:
                    raise ModelFailedError(str(error)) from error
            return self._tokenizer[1]

    def _info(self) -> EngineInfo:
        if not self.ready:
            self._engine.wait_ready(PATIENCE)
        return self._engine.known()
