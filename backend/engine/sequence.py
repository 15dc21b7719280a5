"""One request as the engine sees it: its tokens, its blocks and its clocks."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

import numpy as np

from backend.engine.messages import Generate, Logprob, Usage
from backend.engine.speculate import Drafter, PromptLookup


class Status(Enum):
    """Where a sequence is in its life."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True)
class Recompute:
    """What is left of a prompt that kept states of passages were put into.

    Attributes:
        positions: still to go through the model, ascending.
        exact_prefix: tokens before the first passage; what is behind it is not as the model itself would have it.
    """

    positions: list[int]
    exact_prefix: int


class Sequence:
    """Prompt and output tokens with the block table that holds their keys and values.

    `computed` tokens have keys and values in the cache; the rest still have to go through the model.

    Args:
        request: what was asked.
        max_blocks: most blocks it can come to hold.
        eos_ids: the model's end-of-sequence tokens.
    """

    def __init__(self, request: Generate, max_blocks: int, eos_ids: Iterable[int] = ()) -> None:
        self.request_id = request.request_id
        self.tokens: list[int] = list(request.prompt)
        self.prompt_len = len(request.prompt)
        self.sampling = request.sampling
        self.path = request.path
        self.salt = request.salt
        self.status = Status.WAITING
        self.blocks: list[int] = []
        self.block_row = np.zeros(max_blocks, dtype=np.int32)
        self.digests: list[bytes] = []  # of its full blocks, as far as anybody asked; see `BlockCache`
        self.digests_of = ""  # the fingerprint that they were made with
        self.committed = 0  # blocks that the cache knows
        self.computed = 0
        asked = self.sampling.prompt_logprobs is not None
        self.prompt_logprobs: list[Logprob | None] = [None] * self.prompt_len if asked else []
        self.end_ids = frozenset(self.sampling.stop_token_ids)  # tokens that end it
        if not self.sampling.ignore_eos:
            self.end_ids |= frozenset(eos_ids)
        # Log probabilities of a prompt are those of its own text: nothing is put in from elsewhere.
        self.segments = () if asked else request.segments
        self.recompute: Recompute | None = None
        self.cached_tokens = -1  # prompt tokens reused on first admission; -1 until admitted
        self.prefill_seconds = self.decode_seconds = self.speculation_seconds = self.cached_seconds = 0.0
        self.drafted_tokens = self.accepted_tokens = 0
        self.arrival = request.arrival or time.monotonic()
        self.scheduled = 0.0
        self.first_token = 0.0
        self.drafter: Drafter | None = None  # made when speculation first looks at it
        seed = self.sampling.seed
        self.rng = random.Random(seed if seed is not None else request.request_id + str(self.arrival))

    @property
    def length(self) -> int:
        """Tokens so far, prompt and output."""
        return len(self.tokens)

    @property
    def output_len(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.prompt_len

    @property
    def scores_prompt(self) -> bool:
        """Whether log probabilities of its prompt are still to come; every token of it has to be computed then."""
        return len(self.prompt_logprobs) > 1 and self.prompt_logprobs[-1] is None

    @property
    def recompute_positions(self) -> list[int]:
        """Positions still to compute, where states of passages were put between them; else none."""
        return self.recompute.positions if self.recompute is not None else []

    @property
    def exact_length(self) -> int:
        """Computed tokens that others may build on: up to the first passage whose states came from elsewhere."""
        return self.computed if self.recompute is None else min(self.computed, self.recompute.exact_prefix)

    @property
    def remaining(self) -> int:
        """Tokens that still have to go through the model before the next one can be sampled."""
        return len(self.recompute_positions) or len(self.tokens) - self.computed

    @property
    def finish_reason(self) -> str | None:
        """Why no token follows, "stop" or "length"; None while one does."""
        if self.output_len and self.tokens[-1] in self.end_ids:
            return "stop"
        return "length" if self.output_len >= self.sampling.max_tokens else None

    def advance(self, count: int) -> None:
        """Note that the next `count` positions have been computed."""
        positions = self.recompute_positions
        if positions:
            del positions[:count]
            if not positions:
                self.computed = len(self.tokens)
        else:
            self.computed += count

    def guess(self, room: int) -> list[int]:
        """Tokens that may follow, for the next step to check; never past the request's last token."""
        if self.drafter is None:
            self.drafter = PromptLookup()
        return self.drafter.propose(self.tokens, min(room, self.sampling.max_tokens - self.output_len - 1))

    def usage(self, variant: str) -> Usage:
        """The request's account, closed now."""
        return Usage(
            prompt_tokens=self.prompt_len,
            cached_tokens=max(self.cached_tokens, 0),
            output_tokens=self.output_len,
            prefill_seconds=self.prefill_seconds,
            decode_seconds=self.decode_seconds,
            arrival=self.arrival,
            scheduled=self.scheduled,
            first_token=self.first_token,
            finished=time.monotonic(),
            variant=variant,
            drafted_tokens=self.drafted_tokens,
            accepted_tokens=self.accepted_tokens,
            speculation_seconds=self.speculation_seconds,
            cached_seconds=self.cached_seconds,
        )
