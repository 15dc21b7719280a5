"""The embedding model that serves, and what waits for it: one forward pass a turn, so that the loop is never held long.

Knows nothing of decoding.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
from collections.abc import Callable
from typing import Any

import torch

from backend.engine.config import EngineConfig
from backend.engine.embedding.encoder import Encoder
from backend.engine.embedding.queue import Embedding, EmbeddingQueue
from backend.engine.messages import Embed, Embedded, Failed
from backend.engine.statistics import Statistics
from backend.engine.validation import check_embed
from backend.models.checkpoint import fingerprint, resolve

log = logging.getLogger("tenfold.engine")


class EmbeddingServing:
    """An encoder with its queue.

    Args:
        model: folder, hub id or packaged model's name.
        config: of the engine.
        device: where it runs.
        kernels: the C++ library, or None.
        statistics: where its work is counted.
        emit: called with every outgoing message, from within `step`.
    """

    def __init__(
        self, model: str, config: EngineConfig, device: torch.device, kernels: ctypes.CDLL | None,
        statistics: Statistics, emit: Callable[[Any], None],
    ) -> None:  # fmt: skip
        self._config, self._statistics, self._emit = config, statistics, emit
        self.folder = resolve(model, config.cache_dir)
        self.encoder = Encoder(
            self.folder, device, kernels, quantize=config.quantize_embeddings, cache_dir=config.cache_dir
        )
        self.queue = EmbeddingQueue()

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of weights and of how they are computed with: whatever a vector's bits depend on."""
        both = f"{fingerprint(self.folder, self._config.cache_dir)}:{self.encoder.precision}"
        return hashlib.sha256(both.encode()).hexdigest()[:32]

    def add(self, request: Embed, path: str) -> None:
        """Queue a request.

        Raises:
            InvalidRequestError: an input is empty, too long or out of vocabulary.
        """
        check_embed(request, self.encoder.vocab, self.encoder.max_tokens)
        self.queue.add(Embedding(request, self.encoder), path)

    def step(self, *, urgent_only: bool = False) -> None:
        """One forward pass of the embedding whose turn it is; of batch work only if that may be now."""
        embedding = self.queue.first(urgent_only=urgent_only)
        if embedding is None:
            return
        before = embedding.seconds
        try:
            embedding.advance()
            if embedding.complete:
                self.queue.remove(embedding.request_id)
                self._statistics.embedded_texts += len(embedding.vectors)
                vectors = embedding.vectors
                self._emit(Embedded(embedding.request_id, vectors.tobytes(), vectors.shape[1], embedding.seconds))
        except Exception as error:
            log.exception("embedding failed")
            self.queue.remove(embedding.request_id)
            why = f"Embedding failed: {type(error).__name__}: {error}"
            self._emit(Failed(embedding.request_id, why, embedding_seconds=embedding.seconds))
        finally:
            self._statistics.busy_seconds += embedding.seconds - before
            self._statistics.embedding_seconds += embedding.seconds - before
