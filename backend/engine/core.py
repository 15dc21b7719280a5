"""The engine's loop: drain messages → schedule → run → commit → charge → emit.

`EngineCore` is one process' worth of serving without the process, which is `process.py`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from backend.engine.about import EngineInfo
from backend.engine.cache.blocks import BlockCache
from backend.engine.config import EngineConfig
from backend.engine.embedding.serving import EmbeddingServing
from backend.engine.info import engine_info
from backend.engine.kernels.abi import KernelsUnavailableError
from backend.engine.kernels.build import load_cpu_kernels
from backend.engine.messages import REALTIME, Abort, Embed, Failed, Generate, Ping, SetSwitches, Stats, StepOutput
from backend.engine.requests import Requests
from backend.engine.runner import Produced, Runner
from backend.engine.scheduler import Scheduler
from backend.engine.serving.change import Change
from backend.engine.serving.installed import Serving
from backend.engine.statistics import Statistics
from backend.engine.step import Scheduled
from backend.engine.switches import Switches
from backend.engine.validation import InvalidRequestError, check_address

log = logging.getLogger("tenfold.engine")

STATS_INTERVAL = 0.25
"""Seconds between unasked statistics while there is work."""
BACKGROUND_PAUSE = 0.05
"""Seconds that an idle loop sleeps while weights are loaded, or the disk is busy with blocks, beside it."""
KEPT_A_TURN = 8
"""Blocks copied for the disk in one turn: some milliseconds, which nobody's next token waits longer for."""
CLOSING_SECONDS = 2.0
"""Most that the end of the process waits for blocks to be copied."""


class EngineCore:
    """Loads the models and turns requests into tokens, one `step` at a time.

    Args:
        config: what to load and how much memory to use.
        emit: called with every outgoing message, from within `step` and `handle`.
    """

    def __init__(self, config: EngineConfig, emit: Callable[[Any], None]) -> None:
        self.emit = emit
        torch.set_num_threads(config.thread_count())
        device = torch.device(config.device_type())
        self.notices: list[str] = []
        self.kernels = None
        if device.type == "cpu" and config.use_kernels:
            try:
                self.kernels = load_cpu_kernels(config.cache_dir)
                self.kernels.tenfold_set_threads(config.thread_count())
            except KernelsUnavailableError as error:
                self.notices.append(f"Attention runs on the slower portable path: {error}.")
                log.warning("%s", self.notices[-1])
        self.statistics = Statistics()
        started = time.monotonic()
        self.serving = Serving(config, device, self.kernels)
        self.embedding: EmbeddingServing | None = None
        if config.embedding_model is not None:
            self.embedding = EmbeddingServing(
                config.embedding_model, config, device, self.kernels, self.statistics, emit
            )
        self.load_seconds = time.monotonic() - started
        self.statistics.started = time.monotonic()
        self.scheduler = Scheduler(self.serving.cache, config.switches, config.step_tokens())
        self.runner = Runner(self.serving, self.statistics)
        self.requests = Requests(self.scheduler, self.serving, emit)
        self._change = Change(self.serving, self.scheduler, self.requests, emit, self.info)
        self._stats_at = 0.0

    @property
    def cache(self) -> BlockCache:
        """The block accounting in force."""
        return self.serving.cache

    @property
    def folders(self) -> list[Path]:
        """Of the models that are loaded."""
        return [self.serving.folder, *([self.embedding.folder] if self.embedding else [])]

    def info(self) -> EngineInfo:
        """What is loaded, where, and its limits: for people and for the web process."""
        return engine_info(self.serving, self.embedding, self.notices, self.load_seconds)

    def stats(self, nonce: int) -> Stats:
        """Counters and gauges now; checks the block accounting whenever nothing runs."""
        if not self.requests:
            self.requests.fail_all([], "")
        return self.statistics.report(nonce, self.scheduler, self.serving)

    def set_switches(self, switches: Switches) -> None:
        """See `Change.set_switches`."""
        self._change.set_switches(switches)

    def say_switches(self) -> None:
        """Say which switches are in force, and what is being loaded."""
        self._change.say_switches()

    def close(self) -> None:
        """Let what is still to be kept reach the disk."""
        deadline = time.monotonic() + CLOSING_SECONDS
        while self.cache.keeping and time.monotonic() < deadline:
            self.cache.keep(KEPT_A_TURN)
            if not self.cache.can_keep:
                time.sleep(0.005)  # the disk is busy
        self.serving.close()

    # ---- messages ------------------------------------------------------------------------------------------------

    def handle(self, message: Any) -> None:
        """Take one message in. A bad one fails alone, whatever it is and whatever is wrong with it."""
        try:
            self._handle(message)
        except Exception as error:
            if not isinstance(error, InvalidRequestError):
                log.exception("a message of kind %s could not be taken", type(message).__name__)
            if isinstance(message, Generate | Embed):
                why = str(error) if isinstance(error, InvalidRequestError) else f"It could not be read: {error}"
                self.emit(Failed(message.request_id, why, "invalid"))
            elif isinstance(message, Abort):
                self.requests.fail_all([], f"A request could not be ended: {error}")
            elif isinstance(message, SetSwitches):
                self._change.say_switches(f"The switches could not be applied: {error}")

    def _handle(self, message: Any) -> None:
        if isinstance(message, Generate):
            self.add(message)
        elif isinstance(message, Abort):
            self.abort(message.request_id)
        elif isinstance(message, Embed):
            self.add_embedding(message)
        elif isinstance(message, SetSwitches):
            self.set_switches(message.switches)
        elif isinstance(message, Ping):
            self.emit(self.stats(message.nonce))
        else:
            raise TypeError(f"unknown message {type(message).__name__}")

    def add(self, request: Generate) -> None:
        """Queue a request.

        Raises:
            InvalidRequestError: empty, out of vocabulary, or too long ever to fit.
        """
        self._check_address(request)
        self.requests.add(request)

    def add_embedding(self, request: Embed) -> None:
        """Queue an embedding.

        Raises:
            InvalidRequestError: no embedding model, or an input that is empty, too long or out of vocabulary.
        """
        self._check_address(request)
        if self.embedding is None:
            raise InvalidRequestError("No embedding model is loaded.")
        self.embedding.add(request, request.path if self.serving.switches.dual_path else REALTIME)

    def _check_address(self, request: Generate | Embed) -> None:
        check_address(request)
        embedded = self.embedding is not None and request.request_id in self.embedding.queue
        if embedded or request.request_id in self.requests:
            raise InvalidRequestError(f"Request id {request.request_id} is already in use.")

    def abort(self, request_id: str) -> None:
        """End a request at once; unknown ids are those that ended already."""
        if request_id in self.requests:
            self.requests.abort(request_id)
        elif self.embedding is not None and (left := self.embedding.queue.remove(request_id)):
            why = "The embedding was ended by its caller."
            self.emit(Failed(request_id, why, "aborted", embedding_seconds=left.seconds))

    # ---- the loop ------------------------------------------------------------------------------------------------

    @property
    def _beside(self) -> bool:
        """Whether something is to be done beside decoding."""
        embedding = self.embedding is not None and bool(self.embedding.queue)
        serving = self.serving
        return embedding or self._change.is_due or serving.precision.has_news or self.cache.can_keep

    @property
    def has_work(self) -> bool:
        """Whether `step` would do something."""
        return self.scheduler.has_work or self._beside

    def rest(self) -> float | None:
        """Seconds that the loop may sleep if no message comes; None: until one does."""
        if self._beside:
            return 0.0
        if self.scheduler.has_work:
            return self.scheduler.hold(time.monotonic())
        beside = self.serving.loading or self.serving.precision.is_measuring or self.cache.keeping
        return BACKGROUND_PAUSE if beside else None

    def step(self, *, hold: bool = False) -> None:
        """One turn: other weights if some arrived, a step of decoding, a pass of embedding, some blocks kept.

        With `hold` an idle decoder waits for company as its switch says.
        """
        self._change.swap()
        self._change.take_precision()
        if not hold or not self.scheduler.hold(time.monotonic()):
            self._decode()
        if self.embedding is not None:
            self.embedding.step(urgent_only=not self.scheduler.may_embed())
        self.cache.keep(KEPT_A_TURN)
        now = time.monotonic()
        if now - self._stats_at >= STATS_INTERVAL or not self.has_work:
            self._stats_at = now
            self.emit(self.stats(0))

    def _decode(self) -> None:
        """Schedule → run → commit → charge → emit. What fails fails those sequences, with its cause."""
        started = time.monotonic()
        scheduled: list[Scheduled] | None = None
        charged = False
        try:
            scheduled = self.scheduler.schedule(started)
            self.requests.fail_those_that_are_stuck(idle=not scheduled)
            if not scheduled:
                return
            for item in scheduled:
                item.seq.scheduled = item.seq.scheduled or started
            produced = self.runner.run(scheduled)
            for item in scheduled:
                self.cache.commit(item.seq)
            charged = True
            self._charge(scheduled, time.monotonic() - started)
            self._emit_tokens(produced)
            self.requests.finish_those_that_ended(scheduled, produced)
        except Exception as error:
            log.exception("a step failed")
            cause = f"The model failed on this batch: {type(error).__name__}: {error}"
            if scheduled is not None:
                culprits = [item.seq for item in scheduled]
                if scheduled and not charged:  # what a step that failed took is theirs as well
                    self.statistics.charge(scheduled, time.monotonic() - started)
            elif self.scheduler.looking_at is not None:
                culprits = [self.scheduler.looking_at]
            else:
                culprits = list(self.requests.live.values())
            self.requests.fail_all(culprits, cause)

    def _charge(self, scheduled: list[Scheduled], elapsed: float) -> None:
        self.statistics.charge(scheduled, elapsed)
        self.statistics.step_times.learn(scheduled, elapsed)
        self.statistics.reading_times.learn(scheduled, elapsed, self.serving.decoder.variant)
        self.scheduler.learn(scheduled, elapsed, time.monotonic())

    def _emit_tokens(self, produced: Produced) -> None:
        if not produced:
            return
        now = time.monotonic()
        for seq, _, _ in produced:
            if not seq.first_token:
                seq.first_token = now
                self.statistics.cached_tokens += max(seq.cached_tokens, 0)
                seq.cached_seconds = self.statistics.reading_times.seconds(
                    seq.cached_tokens, seq.prompt_len, self.scheduler.token_budget
                )
        self.statistics.output_tokens += len(produced)
        self.emit(StepOutput([(seq.request_id, token, logprob) for seq, token, logprob in produced]))
