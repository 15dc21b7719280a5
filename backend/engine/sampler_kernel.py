"""The draw of the next tokens and what is reported of their probabilities, by the C++ kernels: a pass over each row."""

from __future__ import annotations

import ctypes

import torch

from backend.engine.kernels.abi import NativeDraw
from backend.engine.messages import Logprob
from backend.engine.sequence import Sequence


def draw(logits: torch.Tensor, seqs: list[Sequence], kernels: ctypes.CDLL, greedy_below: float) -> list[int]:
    """One token per row of contiguous float32 `logits` [sequences, vocab]; low temperatures are greedy."""
    draws = (NativeDraw * len(seqs))()
    for native, seq in zip(draws, seqs, strict=True):
        p = seq.sampling
        if p.temperature > greedy_below:
            native.uniform, native.temperature = seq.rng.random(), p.temperature
            native.top_p, native.min_p, native.top_k = p.top_p, p.min_p, min(p.top_k, logits.shape[1])
    tokens = torch.empty(len(seqs), dtype=torch.int64)
    kernels.tenfold_sample(logits.data_ptr(), *logits.shape, draws, tokens.data_ptr())
    out: list[int] = tokens.tolist()
    return out


def report(
    logits: torch.Tensor, tokens: list[int], alternatives: int, least: float, kernels: ctypes.CDLL
) -> list[Logprob]:
    """Log probabilities of one token a row and of the row's likeliest, none reported below `least`."""
    rows, vocab = logits.shape
    count = min(alternatives, vocab)
    wanted, chosen = torch.tensor(tokens), torch.empty(rows)
    likeliest, values = torch.empty(rows, count, dtype=torch.int64), torch.empty(rows, count)
    kernels.tenfold_logprobs(
        logits.data_ptr(), rows, vocab, wanted.data_ptr(), count, chosen.data_ptr(), likeliest.data_ptr(),
        values.data_ptr(),
    )  # fmt: skip
    tops = zip(likeliest.tolist(), values.clamp(min=least).tolist(), strict=True)
    own = chosen.clamp(min=least).tolist()
    return [Logprob(value, tuple(zip(*top, strict=True))) for value, top in zip(own, tops, strict=True)]
