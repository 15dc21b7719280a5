"""Tokenizers and chat templates of the models that serve, each loaded once however many ask at the same moment."""

from __future__ import annotations

import threading
from pathlib import Path

from tokenizers import Tokenizer

from backend.engine.client import EngineClient
from backend.errors import UnavailableError
from backend.models.checkpoint import ModelNotFoundError
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
        return bool(self._engine.info)

    def unavailable(self) -> UnavailableError:
        """Why nothing can be answered now."""
        return UnavailableError(self._engine.state.detail or "The model is being loaded; retry in a few seconds.")

    def text(self) -> TextModel:
        """Tokenizer and chat template of the language model.

        Raises:
            UnavailableError: the model is still being loaded, or could not be.
        """
        folder = self._folder("model_folder")
        with self._lock:
            if folder not in self._texts:
                try:
                    self._texts[folder] = TextModel(Path(folder))
                except ModelNotFoundError as error:
                    raise UnavailableError(str(error)) from error
            return self._texts[folder]

    def embedding_tokenizer(self) -> Tokenizer:
        """Tokenizer of the embedding model; raises as `text` does."""
        folder = self._folder("embedding_folder")
        with self._lock:
            if folder not in self._tokenizers:
                tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
                tokenizer.no_truncation()
                tokenizer.no_padding()
                self._tokenizers[folder] = tokenizer
            return self._tokenizers[folder]

    def _folder(self, which: str) -> str:
        if not self.ready and not self._engine.wait_ready(PATIENCE):
            raise self.unavailable()
        return str(self._engine.info[which])
