"""Counters of an engine since its start, and the message that reports them."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

import psutil

from backend.engine.messages import REALTIME, Stats
from backend.engine.reading_times import ReadingTimes

if TYPE_CHECKING:
    from backend.engine.scheduler import Scheduler
    from backend.engine.serving.installed import Serving
    from backend.engine.step import Scheduled


LATEST = 15
"""Plain steps whose median is what such a step takes."""
FEWEST = 3
"""Of those, before which nothing is known: the first is far too slow, since nothing is in any cache."""


class StepTimes:
    """How long a step of n decoding sequences takes without guesses: what guesses are held against."""

    def __init__(self) -> None:
        self._plain: dict[int, deque[float]] = {}

    def learn(self, scheduled: list[Scheduled], elapsed: float) -> None:
        """Take a step in, and give its guesses, where it had any, what they saved or took more."""
        if any(item.prefill for item in scheduled):
            return
        count = len(scheduled)
        drafts = sum(len(item.draft) for item in scheduled)
        latest = self._plain.setdefault(count, deque(maxlen=LATEST))
        if not drafts:
            latest.append(elapsed)
        elif len(latest) >= FEWEST:
            plain = median(latest)
            saved = plain - elapsed + plain / count * sum(item.accepted for item in scheduled)
            for item in scheduled:
                item.seq.speculation_seconds += saved * len(item.draft) / drafts


@dataclass(slots=True)
class Statistics:
    """Counters run since the start; times in seconds."""

    started: float = field(default_factory=time.monotonic)
    busy_seconds: float = 0.0
    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    embedded_texts: int = 0
    embedding_seconds: float = 0.0
    step_times: StepTimes = field(default_factory=StepTimes)
    reading_times: ReadingTimes = field(default_factory=ReadingTimes)
    _process: psutil.Process = field(default_factory=psutil.Process)

    def charge(self, scheduled: list[Scheduled], elapsed: float) -> None:
        """Share a step's time out among its sequences, by tokens computed."""
        self.busy_seconds += elapsed
        self.steps += 1
        share = elapsed / sum(item.tokens for item in scheduled)
        for item in scheduled:
            if item.prefill:
                item.seq.prefill_seconds += share * item.tokens
            else:
                item.seq.decode_seconds += share * item.tokens

    def report(self, nonce: int, scheduler: Scheduler, serving: Serving) -> Stats:
        """Counters and gauges now."""
        cache, waiting = scheduler.cache, [seq for queue in scheduler.waiting.values() for seq in queue]
        return Stats(
            nonce=nonce,
            uptime=time.monotonic() - self.started,
            busy_seconds=self.busy_seconds,
            steps=self.steps,
            running=len(scheduler.running),
            waiting_realtime=sum(1 for seq in waiting if seq.path == REALTIME),
            waiting_batch=sum(1 for seq in waiting if seq.path != REALTIME),
            kv_free=cache.free,
            kv_cached=cache.cached,
            kv_used=cache.used,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            output_tokens=self.output_tokens,
            preemptions=scheduler.preemptions,
            drafted_tokens=self.drafted_tokens,
            accepted_tokens=self.accepted_tokens,
            embedded_texts=self.embedded_texts,
            embedding_seconds=self.embedding_seconds,
            variant=serving.decoder.variant,
            memory_bytes=self._process.memory_info().rss,
            disk_tokens=serving.store.files.loaded_tokens if serving.store else 0,
            disk_bytes=serving.store.files.size if serving.store else 0,
            chunk_tokens=serving.passages.reused_tokens if serving.passages else 0,
        )
