"""Which sequences go through the next step, and with how many tokens each. Policy only: no tensors.

Continuous batching under a token budget (Orca, Yu et al. 2022): decoding sequences first, then prefill in chunks, then
admissions. Batch work takes what real time leaves of a step; it gives way and resumes from its cached blocks, has a
share of the time in any case, and is real-time work itself once it is late.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable

from backend.engine.batch_share import BatchShare
from backend.engine.cache.blocks import BlockCache
from backend.engine.company import Company
from backend.engine.config import BLOCK_SIZE
from backend.engine.messages import BATCH, REALTIME
from backend.engine.prefill_pacing import PrefillPacing
from backend.engine.sequence import Sequence, Status
from backend.engine.speculate import MOST
from backend.engine.step import Scheduled, Step
from backend.engine.switches import Switches

SPECULATION_BATCH = 4
"""Most running sequences with which guesses are still worth their check; beyond, the step is bound by arithmetic."""
SCORED_CHUNK = 256
"""Most tokens of a prompt that a step reads where the log probability of each is wanted."""


class Scheduler:
    """Two waiting queues, one running list.

    Args:
        cache: block accounting.
        switches: batching policy; may be replaced between steps.
        token_budget: most tokens one step computes while prefill is chunked.
    """

    def __init__(self, cache: BlockCache, switches: Switches, token_budget: int) -> None:
        self.cache = cache
        self.switches = switches
        self.token_budget = token_budget
        self.waiting: dict[str, deque[Sequence]] = {REALTIME: deque(), BATCH: deque()}
        self.running: list[Sequence] = []
        self.preemptions = 0
        self.pacing = PrefillPacing()
        self.share = BatchShare()
        self.reuse_passages: Callable[[Sequence], int] | None = None  # of an admitted prompt; gives the tokens saved
        self.looking_at: Sequence | None = None  # by `schedule` just now; whose fault it is if that raises
        self._company = Company()

    # ---- arrivals ------------------------------------------------------------------------------------------------

    def add(self, seq: Sequence, now: float) -> None:
        """Queue a new sequence."""
        self._company.arrived(now)
        self._queue(seq).append(seq)

    def _queue(self, seq: Sequence) -> deque[Sequence]:
        return self.waiting[seq.path if self.switches.dual_path else REALTIME]

    @property
    def has_work(self) -> bool:
        """Whether a step could do something."""
        return bool(self.running or self.waiting[REALTIME] or self.waiting[BATCH])

    def hold(self, now: float) -> float:
        """Seconds an idle engine should still wait for company; 0 means start."""
        alone = not self.running and (len(self.waiting[REALTIME]) + len(self.waiting[BATCH])) < self.switches.max_batch
        return self._company.wait(now, self.switches.batch_window_ms / 1000, alone=alone)

    def may_embed(self) -> bool:
        """Whether a pass of batch embeddings may follow the step that was just made."""
        return self.share.may_embed(any(seq.path == REALTIME for seq in self.running))

    def learn(self, scheduled: list[Scheduled], seconds: float, now: float) -> None:
        """Take in what a step took."""
        reading = [item.tokens for item in scheduled if item.reads]
        self.pacing.learn(len(scheduled) - len(reading), sum(reading), seconds)
        if self.switches.dual_path:
            urgent = [item for item in scheduled if item.seq.path == REALTIME]
            batch = sum(item.tokens for item in scheduled if item.seq.path == BATCH)
            wanted = bool(self.waiting[BATCH]) or any(seq.path == BATCH for seq in self.running)
            self.share.learn(now, len(urgent), any(item.prefill for item in urgent), batch, seconds, wanted)

    # ---- one step ------------------------------------------------------------------------------------------------

    def schedule(self, now: float = 0.0) -> list[Scheduled]:
        """Choose the next step's work and give it blocks. Empty when nothing can run."""
        self._company.begin()
        self.pacing.stall = self.switches.prompt_stall_percent / 100
        self.share.floor = self.switches.batch_floor_percent / 100
        step = Step(self.token_budget if self.switches.chunked_prefill else 1 << 30)
        apart = self.switches.dual_path and self.switches.in_flight_batching
        if apart and self._move_up(now):
            self._decode(step, [seq for seq in self.running if seq.path == REALTIME])
            self._pace(step)
            self._read(step, [seq for seq in self.running if seq.path == REALTIME])
            self._yield_to_realtime()
            self._admit_waiting(step, (REALTIME,))
            step.leave_at_most(self.share.beside() if step.items else self.share.alone(now, step.budget))
        elif apart:
            step.leave_at_most(self.share.alone(now, step.budget))
        # Decode first: nobody's next token waits behind a stranger's prompt.
        self._decode(step, self.running)
        self._pace(step)
        self._read(step, self._by_urgency(self.running))
        self._admit_waiting(step, (REALTIME, BATCH))
        self.looking_at = None
        return step.items

    def _move_up(self, now: float) -> bool:
        """Make what has waited beyond the deadline real-time work; whether there is any."""
        deadline = now - self.switches.batch_deadline_s
        late = [seq for seq in (*self.running, *self.waiting[BATCH]) if seq.path == BATCH and seq.arrival < deadline]
        for seq in late:
            seq.path = REALTIME
            if seq.status is Status.WAITING:
                self.waiting[BATCH].remove(seq)
                self.waiting[REALTIME].append(seq)
        return bool(self.waiting[REALTIME]) or any(seq.path == REALTIME for seq in self.running)

    def _take(self, step: Step, seq: Sequence, tokens: int, draft: list[int] | None = None) -> None:
        self.cache.grow(seq, seq.computed + tokens)
        reads = seq.remaining > 1
        step.items.append(Scheduled(seq, tokens, draft or [], reads, prefill=reads or seq.output_len == 0))
        step.chosen.add(seq.request_id)
        step.budget -= tokens

    def _decode(self, step: Step, seqs: list[Sequence]) -> None:
        """The next token of each, while the budget lasts."""
        for seq in list(seqs):
            if seq.request_id in step.chosen or seq.remaining != 1 or seq.status is not Status.RUNNING:
                continue
            if step.budget <= 0:
                break
            self.looking_at = seq
            if self._make_room(seq, seq.length, step.chosen):
                draft = seq.guess(MOST) if self._speculates() and not seq.recompute_positions else []
                if draft and not self.cache.can_grow(seq, seq.length + len(draft)):
                    draft = []
                self._take(step, seq, 1 + len(draft), draft)

    def _pace(self, step: Step) -> None:
        """How much of long prompts the step may read beside those that decode in it."""
        if step.paced is None:
            waited_for = any(item.seq.path == REALTIME or not self.switches.dual_path for item in step.items)
            step.paced = self.pacing.chunk_size() if self.switches.chunked_prefill and waited_for else step.budget

    def _chunk_size(self, step: Step, seq: Sequence) -> int:
        """Tokens of its prompt that this step reads; few of one that would hold everybody up."""
        if seq.scores_prompt:  # each gives a row of logits as wide as the vocabulary
            return min(seq.remaining, step.budget, SCORED_CHUNK)
        if not self._is_paced(seq):
            return min(seq.remaining, step.budget)
        assert step.paced is not None
        tokens = min(seq.remaining, step.budget, step.paced)
        step.paced -= tokens
        return tokens

    def _read(self, step: Step, seqs: list[Sequence]) -> None:
        """Prompts that were begun, while the budget lasts."""
        for seq in seqs:
            if seq.request_id in step.chosen or seq.status is not Status.RUNNING or step.budget <= 0:
                continue
            self.looking_at = seq
            tokens = self._chunk_size(step, seq)
            if tokens and self._make_room(seq, seq.computed + tokens, step.chosen):
                self._take(step, seq, tokens)

    def _admit_waiting(self, step: Step, paths: tuple[str, ...]) -> None:
        """Prompts that nobody has begun, in their order."""
        forming = not self.switches.in_flight_batching  # a fixed batch is formed whole, then read within the budget
        if forming and self.running:
            return
        while (forming or step.budget > 0) and len(self.running) < self.switches.max_batch:
            # One that no token could be read of now would only hold a place, and blocks, that others can use.
            candidate = self.looking_at = self._next_waiting(paths, long=forming or bool(step.paced))
            if candidate is None or not self._admit(candidate, step.chosen):
                break
            if step.budget > 0 and (tokens := self._chunk_size(step, candidate)):
                self._take(step, candidate, tokens)

    def _is_paced(self, seq: Sequence) -> bool:
        """Whether a prompt is read at a pace that others can bear."""
        return seq.length > self.token_budget

    def _speculates(self) -> bool:
        """Guesses are checked almost for free while few sequences share a step, and not when many do."""
        return self.switches.speculation == "ngram" and len(self.running) <= SPECULATION_BATCH

    def _by_urgency(self, seqs: list[Sequence]) -> list[Sequence]:
        if not self.switches.dual_path:
            return list(seqs)
        return sorted(seqs, key=lambda s: s.path == BATCH)

    def _next_waiting(self, paths: tuple[str, ...], *, long: bool) -> Sequence | None:
        """The first in line; without `long` the first whose prompt needs no pace."""
        everyone = itertools.chain.from_iterable(self.waiting[path] for path in paths)
        return next((seq for seq in everyone if long or not self._is_paced(seq)), None)

    def _admit(self, seq: Sequence, chosen: set[str]) -> bool:
        # The whole prompt must fit, and one block of slack per running sequence, or admitting would at once preempt.
        while not self.cache.can_admit(seq, seq.length + BLOCK_SIZE * len(self.running)):
            victims = [] if seq.path == BATCH or not self.switches.dual_path else self._patient(chosen)
            if not victims:
                return False
            self.preempt(self._least_urgent(victims))
        self._queue(seq).remove(seq)
        reused = self.cache.admit(seq)
        if self.reuse_passages is not None and seq.segments and self.cache.can_grow(seq, seq.length):
            self.cache.grow(seq, seq.length)
            reused += self.reuse_passages(seq)
        if seq.cached_tokens < 0:  # recomputation after a preemption is no cache hit
            seq.cached_tokens = min(reused, seq.prompt_len)
        seq.status = Status.RUNNING
        self.running.append(seq)
        return True

    def _make_room(self, seq: Sequence, tokens: int, chosen: set[str]) -> bool:
        """Preempt until the sequence's table can grow to `tokens`; False if it had to give way itself."""
        while not self.cache.can_grow(seq, tokens):
            victims = [s for s in self.running if s.request_id not in chosen and s is not seq]
            if not victims:
                if seq.request_id not in chosen:
                    self.preempt(seq)
                return False
            self.preempt(self._least_urgent(victims))
        return True

    def _least_urgent(self, seqs: list[Sequence]) -> Sequence:
        return max(seqs, key=lambda s: (self.switches.dual_path and s.path == BATCH, s.arrival))

    def _patient(self, chosen: set[str]) -> list[Sequence]:
        """Batch sequences that could give way."""
        return [seq for seq in self.running if seq.path == BATCH and seq.request_id not in chosen]

    def _yield_to_realtime(self) -> None:
        """Where places are wanting, as many batch sequences make room as people wait."""
        patient = self._patient(set())
        wanting = len(self.waiting[REALTIME]) - (self.switches.max_batch - len(self.running))
        for _ in range(min(wanting, len(patient))):
            victim = self._least_urgent(patient)
            patient.remove(victim)
            self.preempt(victim)

    def preempt(self, seq: Sequence) -> None:
        """Send a running sequence back to the front of its queue; its blocks stay cached while nobody needs them."""
        self.running.remove(seq)
        self.cache.release(seq)
        seq.status = Status.WAITING
        self._queue(seq).appendleft(seq)
        self.preemptions += 1

    def finish(self, seq: Sequence) -> None:
        """Remove a sequence, running or waiting, and take its blocks back."""
        if seq in self.running:
            self.running.remove(seq)
        for queue in self.waiting.values():
            if seq in queue:
                queue.remove(seq)
        seq.status = Status.FINISHED
        self.cache.release(seq)

    def clear(self, cache: BlockCache) -> None:
        """Forget every sequence, and begin with other blocks."""
        for seq in (*self.running, *self.waiting[REALTIME], *self.waiting[BATCH]):
            seq.status = Status.FINISHED
        self.running.clear()
        self.waiting = {REALTIME: deque(), BATCH: deque()}
        self.cache = cache

    def check_integrity(self) -> None:
        """Raise AssertionError where a sequence is in two places, or the block accounting does not add up."""
        waiting = [*self.waiting[REALTIME], *self.waiting[BATCH]]
        if len({id(seq) for seq in [*self.running, *waiting]}) != len(self.running) + len(waiting):
            raise AssertionError("a sequence is in two places")
        if any(seq.blocks for seq in waiting):
            raise AssertionError("a waiting sequence holds blocks")
        self.cache.check(self.running)

    def set_switches(self, switches: Switches) -> None:
        """Replace the policy; waiting batch sequences are re-queued if the two paths were merged or split."""
        merged = self.switches.dual_path != switches.dual_path
        self.switches = switches
        if merged:
            everyone = sorted([*self.waiting[REALTIME], *self.waiting[BATCH]], key=lambda s: s.arrival)
            self.waiting = {REALTIME: deque(), BATCH: deque()}
            for seq in everyone:
                self._queue(seq).append(seq)
