"""Draws the next token of every sequence of a step from its logits."""

from __future__ import annotations

import torch

from backend.engine.messages import Logprob
from backend.engine.sequence import Sequence

NUCLEUS_CANDIDATES = 1024
"""Tokens looked at before a full sort; a nucleus is nearly always smaller."""


@torch.inference_mode()
def sample(logits: torch.Tensor, seqs: list[Sequence]) -> tuple[list[int], list[Logprob | None]]:
    """Choose one token per row of float32 `logits` [sequences, vocab].

    Each sampled row uses one uniform number of its own generator, so a seed repeats its tokens in any batch. Log
    probabilities are of the model's distribution after penalties, before temperature and truncation.
    """
    _penalize(logits, seqs)
    tokens: list[int] = logits.argmax(dim=-1).tolist()
    drawn = [i for i, seq in enumerate(seqs) if seq.sampling.temperature > 0]
    for i in drawn:
        tokens[i] = _draw(logits[i], seqs[i])
    return tokens, _logprobs(logits, seqs, tokens)


def _penalize(logits: torch.Tensor, seqs: list[Sequence]) -> None:
    for i, seq in enumerate(seqs):
        p = seq.sampling
        if p.repetition_penalty != 1.0:
            seen = torch.tensor(seq.tokens, device=logits.device).unique()
            row = logits[i, seen]
            logits[i, seen] = torch.where(row > 0, row / p.repetition_penalty, row * p.repetition_penalty)
        if (p.frequency_penalty or p.presence_penalty) and seq.output_len:
            output = torch.tensor(seq.tokens[seq.prompt_len :], device=logits.device)
            values, counts = output.unique(return_counts=True)
            logits[i, values] -= p.frequency_penalty * counts + p.presence_penalty


def _draw(row: torch.Tensor, seq: Sequence) -> int:
    p = seq.sampling
    scaled = row / p.temperature
    uniform = seq.rng.random()
    if not p.top_k and p.top_p >= 1.0:
        probabilities = torch.softmax(scaled, dim=-1)
        if p.min_p:
            probabilities = _drop_unlikely(probabilities, p.min_p)
        return _invert(probabilities, uniform)
    vocab = scaled.shape[-1]
    candidates = min(p.top_k or NUCLEUS_CANDIDATES, vocab)
    values, indices = scaled.topk(candidates)
    total = torch.logsumexp(values if p.top_k else scaled, dim=-1)
    probabilities = (values - total).exp()
    if p.top_p < 1.0 and not p.top_k and float(probabilities.sum()) < p.top_p:
        values, indices = scaled.sort(descending=True)
        probabilities = (values - total).exp()
    if p.top_p < 1.0:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities * (before < p.top_p)
    if p.min_p:
        probabilities = _drop_unlikely(probabilities, p.min_p)
    return int(indices[_invert(probabilities, uniform)])


def _drop_unlikely(probabilities: torch.Tensor, min_p: float) -> torch.Tensor:
    return probabilities * (probabilities >= min_p * probabilities.max())


def _invert(probabilities: torch.Tensor, uniform: float) -> int:
    """Inverse of the cumulative distribution at `uniform` of its total mass."""
    cumulative = probabilities.double().cumsum(-1)
    target = torch.tensor([uniform * float(cumulative[-1])], dtype=torch.float64, device=cumulative.device)
    index = int(torch.searchsorted(cumulative, target, right=True))
    if index >= len(cumulative) or not probabilities[index]:
        index = int(probabilities.nonzero()[-1])
    return index


def _logprobs(logits: torch.Tensor, seqs: list[Sequence], tokens: list[int]) -> list[Logprob | None]:
    out: list[Logprob | None] = [None] * len(seqs)
    for i, seq in enumerate(seqs):
        wanted = seq.sampling.logprobs
        if wanted is None:
            continue
        row = torch.log_softmax(logits[i], dim=-1)
        top: tuple[tuple[int, float], ...] = ()
        if wanted:
            values, indices = row.topk(wanted)
            top = tuple(zip(indices.tolist(), values.tolist(), strict=True))
        out[i] = Logprob(chosen=float(row[tokens[i]]), top=top)
    return out
