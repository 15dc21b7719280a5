"""Draws the next token of every sequence of a step from its logits."""

from __future__ import annotations

import ctypes

import torch

from backend.engine import sampler_kernel
from backend.engine.messages import Logprob
from backend.engine.sequence import Sequence

NUCLEUS_CANDIDATES = 1024
"""Tokens looked at before a full sort; a nucleus is nearly always smaller."""
GREEDY_BELOW = 1e-6
"""Temperatures up to this are greedy: logits divided by less leave what float32 can hold."""
NEVER = -1e9
"""Logit of a token that must not be drawn; finite, so that a distribution of nothing else is one still."""
LEAST_LOGPROB = -9999.0
"""What a log probability is reported as at least, so that it can be written as JSON and added up."""


@torch.inference_mode()
def sample(
    logits: torch.Tensor, seqs: list[Sequence], kernels: ctypes.CDLL | None = None
) -> tuple[list[int], list[Logprob | None]]:
    """Choose one token per row of float32 `logits` [sequences, vocab], by the C++ kernels where they are given.

    Each sampled row uses one uniform number of its own generator, so a seed repeats its tokens in any batch. Log
    probabilities are of the model's distribution after penalties, before temperature and truncation.
    """
    _penalize(logits, seqs)
    _steer(logits, seqs)
    if kernels is not None:
        logits = logits.contiguous()
        tokens = sampler_kernel.draw(logits, seqs, kernels, GREEDY_BELOW)
        return tokens, _logprobs(logits, seqs, tokens, kernels)
    tokens = logits.argmax(dim=-1).tolist()
    drawn = [i for i, seq in enumerate(seqs) if seq.sampling.temperature > GREEDY_BELOW]
    if drawn:
        for i, token in zip(drawn, _draw(logits[drawn], [seqs[i] for i in drawn]), strict=True):
            tokens[i] = token
    return tokens, _logprobs(logits, seqs, tokens, None)


def takes_the_likeliest(seq: Sequence) -> bool:
    """Whether its next token is the likeliest of the logits as they are, and nothing more is asked of them."""
    p = seq.sampling
    plain = p.repetition_penalty == 1.0 and not (p.frequency_penalty or p.presence_penalty or p.logit_bias)
    ends_freely = seq.output_len >= p.min_tokens or not seq.end_ids
    return plain and ends_freely and p.temperature <= GREEDY_BELOW and p.logprobs is None


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


def _steer(logits: torch.Tensor, seqs: list[Sequence]) -> None:
    """Add each request's logit bias, and keep its answer from ending before `min_tokens`."""
    for i, seq in enumerate(seqs):
        if seq.sampling.logit_bias:
            tokens, values = zip(*seq.sampling.logit_bias, strict=True)
            bias = torch.tensor(values, dtype=logits.dtype, device=logits.device)
            logits[i].index_add_(0, torch.tensor(tokens, device=logits.device), bias)
        if seq.output_len < seq.sampling.min_tokens and seq.end_ids:
            logits[i, list(seq.end_ids)] = NEVER


def _draw(logits: torch.Tensor, seqs: list[Sequence]) -> list[int]:
    """Draw one token per row. Every operation works row by row, so a row's draw does not depend on the others."""
    device = logits.device
    temperature = torch.tensor([seq.sampling.temperature for seq in seqs], device=device)
    probabilities = torch.softmax(logits / temperature.unsqueeze(1), dim=-1)
    uniform = torch.tensor([seq.rng.random() for seq in seqs], dtype=torch.float64, device=device)
    min_p = torch.tensor([seq.sampling.min_p for seq in seqs], device=device).unsqueeze(1)
    if bool((min_p > 0).any()):
        largest = probabilities.amax(dim=-1, keepdim=True)
        probabilities = torch.where(probabilities >= min_p * largest, probabilities, 0.0)
    out = torch.empty(len(seqs), dtype=torch.int64, device=device)
    cut: dict[int, list[int]] = {}  # rows by how many candidates they look at
    whole: list[int] = []
    vocab = logits.shape[-1]
    for i, seq in enumerate(seqs):
        p = seq.sampling
        if p.top_k or p.top_p < 1.0:
            cut.setdefault(min(p.top_k or NUCLEUS_CANDIDATES, vocab), []).append(i)
        else:
            whole.append(i)
    if whole:
        out[whole] = _invert(probabilities[whole], uniform[whole])
    for candidates, rows in cut.items():
        out[rows] = _draw_among(probabilities[rows], uniform[rows], candidates, [seqs[i] for i in rows])
    tokens: list[int] = out.tolist()
    return tokens


def _draw_among(
    probabilities: torch.Tensor, uniform: torch.Tensor, candidates: int, seqs: list[Sequence]
) -> torch.Tensor:
    """Draw among each row's likeliest tokens: `top_k` of them, then the nucleus of mass `top_p`."""
    values, indices = probabilities.topk(candidates)
    top_p = torch.tensor([seq.sampling.top_p for seq in seqs], device=values.device).unsqueeze(1)
    counted = torch.tensor([bool(seq.sampling.top_k) for seq in seqs], device=values.device).unsqueeze(1)
    cumulative = values.cumsum(-1)
    # A nucleus is a share of what top_k left, or of everything.
    mass = torch.where(counted, cumulative[:, -1:], probabilities.sum(-1, keepdim=True))
    short = (cumulative[:, -1:] < top_p * mass) & ~counted & (top_p < 1.0)
    if bool(short.any()) and candidates < probabilities.shape[-1]:  # a flat distribution: look at everything
        flat = short.squeeze(1).nonzero().flatten().tolist()
        rest = [i for i in range(len(seqs)) if i not in flat]
        out = torch.empty(len(seqs), dtype=torch.int64, device=values.device)
        every = probabilities.shape[-1]
        out[flat] = _draw_among(probabilities[flat], uniform[flat], every, [seqs[i] for i in flat])
        if rest:
            out[rest] = _draw_among(probabilities[rest], uniform[rest], candidates, [seqs[i] for i in rest])
        return out
    kept = torch.where(cumulative - values < top_p * mass, values, 0.0)
    return indices.gather(1, _invert(kept, uniform).unsqueeze(1)).squeeze(1)


def _invert(probabilities: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Inverse of each row's cumulative distribution at `uniform` of its total mass."""
    cumulative = probabilities.double().cumsum(-1)
    target = (uniform * cumulative[:, -1]).unsqueeze(1)
    index = torch.searchsorted(cumulative, target, right=True).clamp(max=probabilities.shape[-1] - 1)
    possible = probabilities.gather(1, index) > 0
    last = probabilities.shape[-1] - 1 - (probabilities > 0).flip(-1).to(torch.uint8).argmax(-1, keepdim=True)
    return torch.where(possible, index, last).squeeze(1)


def _logprobs(
    logits: torch.Tensor, seqs: list[Sequence], tokens: list[int], kernels: ctypes.CDLL | None
) -> list[Logprob | None]:
    out: list[Logprob | None] = [None] * len(seqs)
    asking: dict[int, list[int]] = {}  # rows by how many alternatives they report
    for i, seq in enumerate(seqs):
        if seq.sampling.logprobs is not None:
            asking.setdefault(seq.sampling.logprobs, []).append(i)
    for alternatives, rows in asking.items():
        own = logits if len(rows) == len(seqs) else logits[rows]
        reported = _report(own, [tokens[i] for i in rows], alternatives, kernels)
        for i, logprob in zip(rows, reported, strict=True):
            out[i] = logprob
    return out


def _report(
    logits: torch.Tensor, tokens: list[int], alternatives: int, kernels: ctypes.CDLL | None
) -> list[Logprob]:
    """Log probabilities of one token a row and of the row's likeliest."""
    if kernels is not None:
        return sampler_kernel.report(logits, tokens, alternatives, LEAST_LOGPROB, kernels)
    rows = torch.log_softmax(logits, dim=-1).clamp(min=LEAST_LOGPROB)
    chosen = rows.gather(1, torch.tensor(tokens, device=rows.device).unsqueeze(1)).squeeze(1).tolist()
    values, indices = rows.topk(min(alternatives, rows.shape[-1]))
    tops = [tuple(zip(*pair, strict=True)) for pair in zip(indices.tolist(), values.tolist(), strict=True)]
    return [Logprob(*pair) for pair in zip(chosen, tops, strict=True)]


@torch.inference_mode()
def score_prompt(logits: torch.Tensor, seq: Sequence, start: int, kernels: ctypes.CDLL | None = None) -> None:
    """Note the log probabilities of a prompt's tokens.

    Args:
        logits: float32 [positions, vocab], the model's at `start` and the positions after it.
        seq: what they were computed for; its `prompt_logprobs` are filled in.
        start: first position.
        kernels: the C++ library, or None for torch.
    """
    # Each position predicts the next one's token; the last one's is the answer's first.
    tokens = seq.tokens[start + 1 : min(start + 1 + len(logits), seq.prompt_len)]
    if tokens:
        reported = _report(logits[: len(tokens)], tokens, seq.sampling.prompt_logprobs or 0, kernels)
        seq.prompt_logprobs[start + 1 : start + 1 + len(tokens)] = reported
