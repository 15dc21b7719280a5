"""One request as the engine sees it: its tokens, its blocks and its clocks."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from enum import Enum

import numpy as np

from backend.engine.config import BLOCK_SIZE
from backend.engine.messages import Generate, Logprob, Usage
from backend.engine.speculate import Drafter, PromptLookup


class Status(Enum):
    """Where a sequence is in its life."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


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
        self.block_hashes: list[bytes] = []
        self.computed = 0
        asked = self.sampling.prompt_logprobs is not None
        self.prompt_logprobs: list[Logprob | None] = [None] * self.prompt_len if asked else []
        self.end_ids = frozenset(self.sampling.stop_token_ids)  # tokens that end it
        if not self.sampling.ignore_eos:
            self.end_ids |= frozenset(eos_ids)
        # Log probabilities of a prompt are those of its own text: nothing is put in from elsewhere.
        self.segments = () if asked else request.segments
        self.pending: list[int] = []  # positions still to compute, where states of texts were put between them
        self.exact: int | None = None  # tokens before the first such text
        self.cached_tokens = -1  # prompt tokens reused on first admission; -1 until admitted
        self.prefill_seconds = self.decode_seconds = 0.0
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
    def remaining(self) -> int:
        """Tokens that still have to go through the model before the next one can be sampled."""
        return len(self.pending) or len(self.tokens) - self.computed

    def advance(self, count: int) -> None:
        """Note that the next `count` positions have been computed."""
        if self.pending:
            del self.pending[:count]
            if not self.pending:
                self.computed = len(self.tokens)
        else:
            self.computed += count

    def guess(self, room: int) -> list[int]:
        """Tokens that may follow, for the next step to check; never past the request's last token."""
        if self.drafter is None:
            self.drafter = PromptLookup()
        return self.drafter.propose(self.tokens, min(room, self.sampling.max_tokens - self.output_len - 1))

    def blocks_for(self, tokens: int) -> int:
        """Blocks a sequence of `tokens` tokens needs."""
        return -(-tokens // BLOCK_SIZE)

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
        )
