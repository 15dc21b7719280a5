"""Embeddings that wait or are worked on, one forward pass at a time, so that the loop is never held longer than that.

First come, first served within a path, and realtime before batch. Knows the encoder, and nothing of decoding.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

import numpy as np

from backend.engine.embedding.encoder import Encoder
from backend.engine.messages import BATCH, REALTIME, Embed


class Embedding:
    """One request: its vectors so far, and the passes that are left."""

    def __init__(self, request: Embed, encoder: Encoder) -> None:
        self.request = request
        self.request_id = request.request_id
        self.vectors = np.empty((len(request.inputs), encoder.dimension), dtype=np.float32)
        self.seconds = 0.0  # of the model's time
        self._encoder, self._done = encoder, 0
        self._passes: Iterator[list[int]] = encoder.passes(request.inputs)

    @property
    def complete(self) -> bool:
        """Whether every vector is there."""
        return self._done == len(self.vectors)

    def advance(self) -> None:
        """Compute one pass."""
        started = time.monotonic()
        try:
            rows = next(self._passes, [])
            if rows:
                self.vectors[rows] = self._encoder.forward([self.request.inputs[i] for i in rows])
                self._done += len(rows)
        finally:
            self.seconds += time.monotonic() - started


class EmbeddingQueue:
    """What is to be embedded, in the order in which it will be."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Embedding]] = {REALTIME: deque(), BATCH: deque()}

    def __bool__(self) -> bool:
        return any(self._waiting.values())

    def __contains__(self, request_id: object) -> bool:
        return any(each.request_id == request_id for queue in self._waiting.values() for each in queue)

    def add(self, embedding: Embedding, path: str) -> None:
        """Queue a request at the end of a path."""
        self._waiting[path].append(embedding)

    def first(self, *, urgent_only: bool = False) -> Embedding | None:
        """Whose turn it is; the same until it is removed, unless somebody more urgent comes."""
        queues = [self._waiting[REALTIME]] if urgent_only else self._waiting.values()
        return next((queue[0] for queue in queues if queue), None)

    def remove(self, request_id: str) -> Embedding | None:
        """Take a request out, with the passes left to it; None if it was not there."""
        for queue in self._waiting.values():
            for embedding in queue:
                if embedding.request_id == request_id:
                    queue.remove(embedding)
                    return embedding
        return None
