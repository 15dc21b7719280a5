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

PATIENCE = 20.0
"""Seconds a caller waits for an engine that is being started."""


class Texts:
    """A cache by model folder; a model that was exchanged brings a folder of its own."""

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._texts: dict[str, TextModel] = {}
        self._tokenizers: dict[str, Tokenizer] = {}

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
        folder = self._info().model_folder
        with self._lock:
            if folder not in self._texts:
                try:
                    self._texts[folder] = TextModel(Path(folder))
                except ModelError as error:
                    raise ModelFailedError(str(error)) from error
            return self._texts[folder]

    def embedding_tokenizer(self) -> Tokenizer:
        """Tokenizer of the embedding model; raises as `text` does."""
        folder = self._info().embedding_folder
        if folder is None:
            raise ModelFailedError("No embedding model is loaded. Set TENFOLD_EMBEDDING_MODEL.")
        with self._lock:
            if folder not in self._tokenizers:
                tokenizer = load_tokenizer(Path(folder))
                tokenizer.no_truncation()
                tokenizer.no_padding()
                self._tokenizers[folder] = tokenizer
            return self._tokenizers[folder]

    def _info(self) -> EngineInfo:
        if not self.ready:
            self._engine.wait_ready(PATIENCE)
        return self._engine.known()
