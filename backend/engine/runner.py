"""From scheduled sequences to their next tokens: one batch, one forward pass, one draw of each.

Holds no state of its own; what is scheduled, committed and emitted is the core's matter.
"""

from __future__ import annotations

import ctypes

import numpy as np
import torch

from backend.engine.attention.base import Batch, NewTokens, make_batch
from backend.engine.messages import Logprob
from backend.engine.sampler import sample, score_prompt, takes_the_likeliest
from backend.engine.sequence import Sequence
from backend.engine.serving.installed import Serving
from backend.engine.statistics import Statistics
from backend.engine.step import Scheduled

Produced = list[tuple[Sequence, int, Logprob | None]]
"""Tokens of one step, in the order in which they were drawn."""


class Runner:
    """Runs steps on the model that serves.

    Args:
        serving: which that is.
        statistics: where tokens are counted.
    """

    def __init__(self, serving: Serving, statistics: Statistics) -> None:
        self._serving, self._statistics = serving, statistics

    def run(self, scheduled: list[Scheduled]) -> Produced:
        """Bring the scheduled tokens through the model; draw the next one of each sequence that is read to its end."""
        logits = self._logits(scheduled)
        read = [item for item in scheduled if item.tokens - len(item.draft) == item.seq.remaining]
        complete = [item for item in read if item.seq.sampling.max_tokens]  # others only wanted their prompt read
        _score_prompts(scheduled, logits, self._serving.kernels)
        for item in scheduled:
            if item.seq.output_len == 0 and item.seq.computed < item.seq.prompt_len:
                self._statistics.prompt_tokens += min(item.tokens, item.seq.prompt_len - item.seq.computed)
            item.seq.advance(item.tokens - len(item.draft))
        if self._serving.passages is not None:
            for item in complete:
                self._serving.passages.learn(item.seq)
        if any(item.draft for item in complete):
            return self._check_drafts(complete, logits)
        seqs = [item.seq for item in complete]
        tokens, logprobs = sample(logits[: len(seqs)], seqs, self._serving.kernels) if seqs else ([], [])
        produced = list(zip(seqs, tokens, logprobs, strict=True))
        for seq, token, _ in produced:
            seq.tokens.append(token)
        return produced

    def _logits(self, scheduled: list[Scheduled]) -> torch.Tensor:
        """Float32 [rows, vocab], in the order of `batch_of`."""
        serving, batch = self._serving, batch_of(scheduled, self._serving.device)
        logits = None
        # Graphs give one row a sequence, which is not enough where a prompt is scored.
        if serving.graphs is not None and serving.switches.cuda_graphs:
            scored = any(item.seq.scores_prompt for item in scheduled)
            logits = None if scored else serving.graphs(batch)
        return serving.decoder.forward(batch, serving.attention) if logits is None else logits

    def _check_drafts(self, complete: list[Scheduled], logits: torch.Tensor) -> Produced:
        """Draw token after token as if nothing had been guessed; a guess that agrees saves its own step."""
        produced: Produced = []
        row = 0
        kernels = self._serving.kernels
        # On a GPU every row that is drawn by itself is waited for by itself; the likeliest of all are known at once.
        likeliest = logits.argmax(dim=-1).tolist() if kernels is None else None
        for item in complete:
            seq, accepted = item.seq, 0
            for guess in [*item.draft, None]:
                at = row + accepted
                if likeliest is not None and takes_the_likeliest(seq):
                    token, logprob = likeliest[at], None
                else:
                    (token,), (logprob,) = sample(logits[at : at + 1], [seq], kernels)
                seq.tokens.append(token)
                produced.append((seq, token, logprob))
                if token != guess or seq.finish_reason:
                    break
                accepted += 1
                seq.computed += 1  # the guess went through the model in this very step
            row += 1 + len(item.draft)
            if item.draft and seq.drafter is not None:
                seq.drafter.learn(len(item.draft), accepted, seq.length)
                self._statistics.drafted_tokens += len(item.draft)
                self._statistics.accepted_tokens += accepted
                seq.drafted_tokens += len(item.draft)
                seq.accepted_tokens += accepted
                item.accepted = accepted
        return produced


def batch_of(scheduled: list[Scheduled], device: torch.device) -> Batch:
    """The scheduled tokens of every sequence as one batch.

    Its logits are those of every sequence that is read to its end, and of its guesses; then, of every token of the
    prompts that are scored.
    """
    parts: list[NewTokens] = []
    last: list[int] = []
    scored: list[int] = []
    begin = 0
    for item in scheduled:
        seq, end = item.seq, begin + item.tokens
        known = item.tokens - len(item.draft)
        blocks = seq.block_row[: len(seq.blocks)]
        chosen = seq.recompute_positions[:known]
        if chosen:
            parts.append(NewTokens([seq.tokens[at] for at in chosen], chosen, blocks))
        else:
            ids = seq.tokens[seq.computed : seq.computed + known] + item.draft
            parts.append(NewTokens(ids, np.arange(seq.computed, seq.computed + item.tokens), blocks))
        if known == seq.remaining and seq.sampling.max_tokens:
            last.extend(range(begin + known - 1, end))
        if seq.scores_prompt:
            scored.extend(range(begin, end))
        begin = end
    return make_batch(parts, last + scored, device)


def _score_prompts(scheduled: list[Scheduled], logits: torch.Tensor, kernels: ctypes.CDLL | None) -> None:
    """Log probabilities of the prompts that ask for them: their rows are the last of `logits`, in order."""
    asking = [item for item in scheduled if item.seq.scores_prompt]
    row = len(logits) - sum(item.tokens for item in asking)
    for item in asking:
        score_prompt(logits[row : row + item.tokens], item.seq, item.seq.computed, kernels)
        row += item.tokens
