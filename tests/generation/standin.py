"""A stand-in at the edge of the engine's process: it takes requests and answers when a test says so."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import replace

import numpy as np

from backend.engine.about import EngineInfo
from backend.engine.messages import REALTIME, Failed, Finished, Generate, Usage
from backend.engine.protocol import EngineState, Phase, Sink, Token
from backend.engine.switches import Switches
from backend.errors import UnavailableError
from backend.models.text import TextModel
from tests.engine.fake_engine import INFO


class StandInEngine:
    """Keeps what was asked; `answer` and `fail` end it."""

    def __init__(self, text: TextModel, context: int = 2048) -> None:
        self.text = text
        self.info = replace(
            INFO, vocab=text.tokenizer.get_vocab_size(), max_model_len=context, embedding_max_tokens=256,
            embedding_dimension=4,
        )  # fmt: skip
        self.switches = Switches()
        self.applied = self.stats = None
        self.state = EngineState(Phase.READY)
        self.asked: list[Generate] = []
        self.embedded: list[str] = []  # the path of each message
        self.down = False
        self._sinks: dict[str, Sink] = {}
        self._lock = threading.Lock()

    @property
    def in_force(self) -> Switches:
        return self.switches

    def wait_ready(self, timeout: float) -> bool:
        return True

    def known(self) -> EngineInfo:
        return self.info

    def generate(self, request: Generate, sink: Sink) -> None:
        with self._lock:
            self.asked.append(request)
            self._sinks[request.request_id] = sink

    def abort(self, request_id: str) -> None:
        self._end(request_id, "abort", 0)

    @property
    def open(self) -> list[str]:
        """The ids of the requests that have not ended."""
        return list(self._sinks)

    def write(self, request_id: str, text: str) -> int:
        """Write some of an answer; gives its tokens."""
        ids = self.text.encode(text)
        for token in ids:
            self._sinks[request_id](Token(token, None))
        return len(ids)

    def answer(self, request_id: str, text: str = " Yes.") -> None:
        self._end(request_id, "stop", self.write(request_id, text))

    def fail(self, request_id: str, why: str, kind: str = "unavailable", usage: Usage | None = None) -> None:
        self._sinks.pop(request_id)(Failed(request_id, why, kind, usage))

    def _end(self, request_id: str, reason: str, output: int) -> None:
        sink = self._sinks.pop(request_id, None)
        if sink is None:
            return
        request = next(r for r in self.asked if r.request_id == request_id)
        now = time.monotonic()
        usage = Usage(
            prompt_tokens=len(request.prompt), cached_tokens=0, output_tokens=output, prefill_seconds=0.2,
            decode_seconds=0.3, arrival=request.arrival, scheduled=now, first_token=now, finished=now, variant="bf16",
        )  # fmt: skip
        sink(Finished(request_id, reason, usage))

    def embed(self, inputs: list[list[int]], path: str = REALTIME) -> Future[tuple[np.ndarray, float]]:
        future: Future[tuple[np.ndarray, float]] = Future()
        self.embedded.append(path)
        if self.down:
            future.set_exception(UnavailableError("The engine stopped."))
        else:
            future.set_result((np.ones((len(inputs), 4), dtype=np.float32) / 2, 0.01 * len(inputs)))
        return future
