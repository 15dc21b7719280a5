"""Which sequences go through the next step, and with how many tokens each. Policy only: no tensors.

Continuous batching under a token budget (Orca, Yu et al. 2022): decoding sequences first, then prefill in chunks, then
admissions. Realtime goes before batch; a batch sequence gives way and resumes from its cached blocks.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from backend.engine.cache.blocks import BlockCache
from backend.engine.config import BLOCK_SIZE
from backend.engine.messages import BATCH, REALTIME
from backend.engine.prefill_pacing import PrefillPacing
from backend.engine.sequence import Sequence, Status
from backend.engine.speculate import MOST
from backend.engine.switches import Switches

ARRIVAL_SMOOTHING = 0.3
SPECULATION_BATCH = 4
"""Most running sequences with which guesses are still worth their check; beyond, the step is bound by arithmetic."""
SCORED_CHUNK = 256
"""Most tokens of a prompt that a step reads where the log probability of each is wanted."""


@dataclass(slots=True)
class Scheduled:
    """A sequence and how many of its next tokens this step computes."""

    seq: Sequence
    tokens: int
    draft: list[int] = field(default_factory=list)  # the last of `tokens`, guessed and to be checked
    reads: bool = False  # several tokens of a prompt (or of what a preemption lost), rather than the next token
    prefill: bool = False  # the same, or a prompt's last token alone
    accepted: int = 0  # guesses of `draft` that the step found right


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
        self.reuse_passages: Callable[[Sequence], int] | None = None  # of an admitted prompt; gives the tokens saved
        self.looking_at: Sequence | None = None  # by `schedule` just now; whose fault it is if that raises
        self._gap: float | None = None  # smoothed seconds between arrivals
        self._last_arrival = 0.0
        self._hold_since: float | None = None

    # ---- arrivals ------------------------------------------------------------------------------------------------

    def add(self, seq: Sequence, now: float) -> None:
        """Queue a new sequence."""
        if self._last_arrival:
            gap = min(now - self._last_arrival, 1.0)
            self._gap = gap if self._gap is None else self._gap + ARRIVAL_SMOOTHING * (gap - self._gap)
        self._last_arrival = now
        self._queue(seq).append(seq)

    def _queue(self, seq: Sequence) -> deque[Sequence]:
        return self.waiting[seq.path if self.switches.dual_path else REALTIME]

    @property
    def has_work(self) -> bool:
        """Whether a step could do something."""
        return bool(self.running or self.waiting[REALTIME] or self.waiting[BATCH])

    def hold(self, now: float) -> float:
        """Seconds an idle engine should still wait for company; 0 means start.

        Waits only while requests have lately been coming closer together than the window is long: a lone user never
        pays for company that does not come.
        """
        window = self.switches.batch_window_ms / 1000
        alone = not self.running and (len(self.waiting[REALTIME]) + len(self.waiting[BATCH])) < self.switches.max_batch
        if not window or not alone or self._gap is None or self._gap > window:
            self._hold_since = None
            return 0.0
        if self._hold_since is None:
            self._hold_since = now
        left = window - (now - self._hold_since)
        return left if left > 0 else 0.0

    # ---- one step ------------------------------------------------------------------------------------------------

    def schedule(self) -> list[Scheduled]:
        """Choose the next step's work and give it blocks. Empty when nothing can run."""
        self._hold_since = None
        self.pacing.stall = self.switches.prompt_stall_percent / 100
        budget = self.token_budget if self.switches.chunked_prefill else 1 << 30
        batch: list[Scheduled] = []
        chosen: set[str] = set()

        def take(seq: Sequence, tokens: int, draft: list[int] | None = None) -> None:
            nonlocal budget
            self.cache.grow(seq, seq.computed + tokens)
            reads = seq.remaining > 1
            batch.append(Scheduled(seq, tokens, draft or [], reads, prefill=reads or seq.output_len == 0))
            chosen.add(seq.request_id)
            budget -= tokens

        # Decode first: nobody's next token waits behind a stranger's prompt.
        for seq in list(self.running):
            self.looking_at = seq
            if seq.remaining == 1 and seq.status is Status.RUNNING and self._make_room(seq, seq.length, chosen):
                draft = seq.guess(MOST) if self._speculates() and not seq.recompute_positions else []
                if draft and not self.cache.can_grow(seq, seq.length + len(draft)):
                    draft = []
                take(seq, 1 + len(draft), draft)
        waited_for = any(item.seq.path == REALTIME or not self.switches.dual_path for item in batch)
        paced_budget = self.pacing.chunk_size() if self.switches.chunked_prefill and waited_for else budget

        def chunk_size(seq: Sequence) -> int:
            """Tokens of its prompt that this step reads; few of one that would hold everybody up."""
            nonlocal paced_budget
            if seq.scores_prompt:  # each gives a row of logits as wide as the vocabulary
                return min(seq.remaining, budget, SCORED_CHUNK)
            if not self._is_paced(seq):
                return min(seq.remaining, budget)
            tokens = min(seq.remaining, budget, paced_budget)
            paced_budget -= tokens
            return tokens

        for seq in self._by_urgency(self.running):
            if seq.request_id in chosen or seq.status is not Status.RUNNING or budget <= 0:
                continue
            self.looking_at = seq
            tokens = chunk_size(seq)
            if tokens and self._make_room(seq, seq.computed + tokens, chosen):
                take(seq, tokens)
        budget += self._yield_to_realtime(batch)
        forming = not self.switches.in_flight_batching  # a fixed batch is formed whole, then read within the budget
        if not forming or not self.running:
            while (forming or budget > 0) and len(self.running) < self.switches.max_batch:
                # One that no token could be read of now would only hold a place, and blocks, that others can use.
                candidate = self.looking_at = self._next_waiting(long=forming or paced_budget > 0)
                if candidate is None or not self._admit(candidate):
                    break
                if budget > 0 and (tokens := chunk_size(candidate)):
                    take(candidate, tokens)
        self.looking_at = None
        return batch

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

    def _next_waiting(self, *, long: bool = True) -> Sequence | None:
        """The first in line; without `long` the first whose prompt needs no pace."""
        everyone = itertools.chain(self.waiting[REALTIME], self.waiting[BATCH])
        return next((seq for seq in everyone if long or not self._is_paced(seq)), None)

    def _admit(self, seq: Sequence) -> bool:
        # The whole prompt must fit, and one block of slack per running sequence, or admitting would at once preempt.
        if not self.cache.can_admit(seq, seq.length + BLOCK_SIZE * len(self.running)):
            return False
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

    def _yield_to_realtime(self, batch: list[Scheduled]) -> int:
        """Where places are wanting, batch sequences make room for people who wait; tokens of the step given back."""
        if not self.switches.dual_path or not self.switches.in_flight_batching:
            return 0
        given_back = 0
        patient = [seq for seq in self.running if seq.path == BATCH]
        wanting = len(self.waiting[REALTIME]) - (self.switches.max_batch - len(self.running))
        for _ in range(min(wanting, len(patient))):
            victim = self._least_urgent(patient)
            patient.remove(victim)
            given_back += sum(item.tokens for item in batch if item.seq is victim)
            batch[:] = [item for item in batch if item.seq is not victim]
            self.preempt(victim)
        return given_back

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
