"""Requests between their arrival and their end. Each ends once: in tokens and their account, or in an error."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from backend.engine.config import blocks_for
from backend.engine.messages import Failed, Finished, Generate, Usage
from backend.engine.runner import Produced
from backend.engine.scheduler import Scheduler
from backend.engine.sequence import Sequence, Status
from backend.engine.serving.installed import Serving
from backend.engine.step import Scheduled
from backend.engine.validation import check_generate

log = logging.getLogger("tenfold.engine")


class Requests:
    """The sequences that are queued or run, by the id of their request.

    Args:
        scheduler: whose queues they are in.
        serving: the model that they are for.
        emit: called with each ending.
    """

    def __init__(self, scheduler: Scheduler, serving: Serving, emit: Callable[[Any], None]) -> None:
        self._scheduler, self._serving, self._emit = scheduler, serving, emit
        self.live: dict[str, Sequence] = {}
        self._stuck = False  # something runs, and the last turn could schedule nothing of it

    def __bool__(self) -> bool:
        return bool(self.live)

    def __contains__(self, request_id: object) -> bool:
        return request_id in self.live

    def add(self, request: Generate) -> None:
        """Queue a request.

        Raises:
            InvalidRequestError: empty, out of vocabulary, or too long ever to fit.
        """
        shape = self._serving.decoder.shape
        check_generate(request, shape.vocab, self._serving.max_model_len)
        blocks = blocks_for(len(request.prompt) + request.sampling.max_tokens)
        seq = Sequence(request, max_blocks=blocks, eos_ids=shape.eos_ids)
        self._scheduler.add(seq, time.monotonic())
        self.live[seq.request_id] = seq

    def abort(self, request_id: str) -> None:
        """End a request that is there."""
        self._finish(self.live[request_id], "abort")

    def finish_those_that_ended(self, scheduled: list[Scheduled], produced: Produced) -> None:
        """After a step: end whose last token was drawn, or who only wanted the prompt read."""
        ending = [seq for seq, _, _ in produced]
        ending += [i.seq for i in scheduled if not (i.seq.sampling.max_tokens or i.seq.remaining)]
        for seq in dict.fromkeys(ending):  # with a guess that held there are two tokens
            reason = seq.finish_reason
            if reason:
                self._finish(seq, reason)

    def _finish(self, seq: Sequence, reason: str) -> None:
        self._scheduler.finish(seq)
        del self.live[seq.request_id]
        self._emit(Finished(seq.request_id, reason, self._usage(seq), tuple(seq.prompt_logprobs)))

    def _fail(self, seq: Sequence, error: str, kind: str = "internal") -> None:
        if seq.status is Status.FINISHED:
            return
        self._scheduler.finish(seq)
        self.live.pop(seq.request_id, None)
        self._emit(Failed(seq.request_id, error, kind, self._usage(seq)))

    def _usage(self, seq: Sequence) -> Usage:
        return seq.usage(self._serving.decoder.variant)

    def fail_those_that_no_longer_fit(self) -> None:
        """After weights or pages were changed: fail what was accepted under the former ones and is too long now."""
        context = self._serving.max_model_len
        for seq in list(self.live.values()):
            if seq.prompt_len + seq.sampling.max_tokens > context:
                why = (
                    f"Weights or pages were changed meanwhile: the context is {context} tokens now, and "
                    f"{seq.prompt_len} prompt tokens plus max_tokens {seq.sampling.max_tokens} exceed it."
                )
                self._fail(seq, why, "invalid")

    def fail_those_that_are_stuck(self, *, idle: bool) -> None:
        """Nobody may wait for what never comes.

        Args:
            idle: nothing could be scheduled. Where nothing runs either, the first in line can never be.
        """
        if not idle:
            self._stuck = False
            return
        scheduler = self._scheduler
        first = next((seq for queue in scheduler.waiting.values() for seq in queue), None)
        if not scheduler.running and first is not None:
            self.fail_all([first], "It does not fit into the KV cache.")
        elif scheduler.running and self._stuck:  # a turn may pass in which people are made room for, but not two
            self.fail_all(list(scheduler.running), "It could not be scheduled any more.")
        self._stuck = bool(scheduler.running)

    def fail_all(self, seqs: list[Sequence], error: str) -> None:
        """Fail sequences; where that leaves blocks unaccounted for, everything ends and the cache begins empty."""
        try:
            for seq in seqs:
                self._fail(seq, error)
            self.check_integrity()
        except (AssertionError, LookupError, ValueError):
            log.exception("the accounting no longer adds up; what is going on ends, and the cache begins empty")
            live, self.live = self.live, {}
            self._serving.renew_cache()
            self._scheduler.clear(self._serving.cache)
            for seq in live.values():
                self._emit(Failed(seq.request_id, error, usage=self._usage(seq)))

    def check_integrity(self) -> None:
        """Raise AssertionError where a request is nowhere or in two places, or a block is lost or held by nobody."""
        self._scheduler.check_integrity()
        queued = [seq for queue in self._scheduler.waiting.values() for seq in queue]
        if {id(seq) for seq in (*self._scheduler.running, *queued)} != {id(seq) for seq in self.live.values()}:
            raise AssertionError("a request is live and not in a queue, or the other way round")
