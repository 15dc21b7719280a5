"""What a variant of a model loses against full precision: on a text that is shipped, and along the model's own answers.

Full precision is held one layer at a time, so that measuring needs little more memory than the variant itself.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from backend.engine.attention.base import Batch, NewTokens, PagedAttention, make_batch
from backend.engine.config import blocks_for
from backend.models.checkpoint import load_tokenizer

if TYPE_CHECKING:
    from backend.engine.model.decoder import Decoder

TEXT = Path(__file__).with_name("evaluation.txt")
WINDOW = 256
"""Tokens of the text that are read in one piece."""
ANSWERS, PROMPT_TOKENS, ANSWER_TOKENS = 32, 24, 48
"""Pieces of the text that the model goes on from, their length, and how far it goes on greedily."""
ROWS = 256
"""Logits worked out at a time."""

MOST_PERPLEXITY, LEAST_SAME_TOKEN = 0.01, 0.96
"""The gate: perplexity at most 1 % up, the likeliest next token the same at 96 % of all places."""


def gate() -> str:
    """The gate in words."""
    return (
        f"perplexity at most {MOST_PERPLEXITY * 100:.0f} % up, the same likeliest next token at "
        f"{LEAST_SAME_TOKEN * 100:.0f} % of all places"
    )


def basis() -> str:
    """What a verdict rests on: it holds for this text and this gate."""
    return hashlib.sha256(TEXT.read_bytes()).hexdigest()[:16] + f"{MOST_PERPLEXITY}{LEAST_SAME_TOKEN}"


Z = 1.96
"""Standard errors on either side of an interval of 95 %."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What was lost.

    Attributes:
        perplexity_change: of the text's, relative; 0.01 is one percent up.
        perplexity_error: its standard error, by the differences of the same tokens.
        same_token: share of the answers' places at which the likeliest next token is that of full precision.
        places: how many those are.
    """

    perplexity_change: float
    perplexity_error: float
    same_token: float
    places: int

    @property
    def inside(self) -> bool:
        """Whether it passes the gate."""
        return self.perplexity_change <= MOST_PERPLEXITY and self.same_token >= LEAST_SAME_TOKEN

    def same_token_interval(self) -> tuple[float, float]:
        """Wilson's interval of 95 % around `same_token`."""
        n, p = self.places, self.same_token
        middle, spread = p + Z * Z / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
        return (middle - spread) / (1 + Z * Z / n), (middle + spread) / (1 + Z * Z / n)


class Yardstick:
    """The text, the model's own answers, and what full precision makes of both.

    Args:
        folder: of the model.
        base: weights whose greedy answers are gone along; those that serve.
        pause: called between two pieces of work, of some tenths of a second each; may wait.
        full: the model in full precision, its layers not held.
    """

    def __init__(self, folder: Path, base: Decoder, full: Decoder, pause: Callable[[], None]) -> None:
        self._pause = pause
        tokenizer = load_tokenizer(folder)
        prefix: list[int] = tokenizer.encode("").ids
        text: list[int] = tokenizer.encode(TEXT.read_text(), add_special_tokens=False).ids
        window = min(WINDOW, base.max_positions) - len(prefix)
        windows = [prefix + text[at : at + window] for at in range(0, len(text) - 1, window)]
        begins = np.linspace(0, len(text) - PROMPT_TOKENS, ANSWERS).astype(int).tolist()
        prompts = [prefix + text[at : at + PROMPT_TOKENS] for at in begins]
        answered = self._answers(base, prompts)
        self._parts: list[NewTokens] = []
        last: list[int] = []
        wanted: list[int] = []
        rows = block = 0
        for ids, begin in [(w, len(prefix) or 1) for w in windows] + [(a, len(prompts[0])) for a in answered]:
            blocks = blocks_for(len(ids))
            self._parts.append(NewTokens(ids, range(len(ids)), np.arange(block, block + blocks, dtype=np.int32)))
            last += range(rows + begin - 1, rows + len(ids) - 1)
            wanted += ids[begin:]
            rows, block = rows + len(ids), block + blocks
        self._blocks, self._last, self._wanted = block, last, torch.tensor(wanted)
        self._of_text = sum(len(w) - (len(prefix) or 1) for w in windows)
        self._scores, self._likeliest = self._read(full)

    @torch.inference_mode()
    def _answers(self, decoder: Decoder, prompts: list[list[int]]) -> list[list[int]]:
        """Each prompt with its greedy answer, end tokens left out."""
        length = len(prompts[0]) + ANSWER_TOKENS
        each = blocks_for(length)
        attention = decoder.make_attention()
        attention.allocate(each * len(prompts))
        tables = [np.arange(i * each, (i + 1) * each, dtype=np.int32) for i in range(len(prompts))]
        sequences = [list(prompt) for prompt in prompts]
        new, at = sequences, 0
        while True:
            parts = [
                NewTokens(ids, range(at, at + len(ids)), table) for ids, table in zip(new, tables, strict=True)
            ]
            ends = np.cumsum([len(ids) for ids in new]) - 1
            logits = decoder.forward(make_batch(parts, ends.tolist(), decoder.device), attention)
            logits[:, list(decoder.shape.eos_ids)] = -math.inf
            at += len(new[0])
            new = [[token] for token in logits.argmax(dim=-1).tolist()]
            sequences = [ids + token for ids, token in zip(sequences, new, strict=True)]
            if len(sequences[0]) == length:
                return sequences
            self._pause()

    @torch.inference_mode()
    def _read(self, decoder: Decoder) -> tuple[torch.Tensor, torch.Tensor]:
        """Log probability of each token wanted, float32 [places], and the likeliest one there."""
        attention = decoder.make_attention()
        attention.allocate(self._blocks)
        scores, likeliest = [], []
        for first, logits in self._logits(decoder, attention, make_batch(self._parts, self._last, decoder.device)):
            wanted = self._wanted[first : first + len(logits)].to(logits.device)
            chosen = logits.gather(1, wanted.unsqueeze(1)).squeeze(1)
            scores.append((chosen - logits.logsumexp(dim=-1)).cpu())
            likeliest.append(logits.argmax(dim=-1).cpu())
            self._pause()
        return torch.cat(scores), torch.cat(likeliest)

    def _logits(
        self, decoder: Decoder, attention: PagedAttention, batch: Batch
    ) -> Iterator[tuple[int, torch.Tensor]]:
        attention.prepare(batch)
        residual, delta = decoder.embed(batch), None
        for i, layer in enumerate(decoder.each_layer()):
            delta = decoder.run_layer(i, layer, residual, delta, batch, attention)
            self._pause()
        for first in range(0, len(batch.last), ROWS):
            yield first, decoder.logits(residual, delta, replace(batch, last=batch.last[first : first + ROWS]))

    def loss(self, decoder: Decoder) -> Loss:
        """What a variant loses."""
        scores, likeliest = self._read(decoder)
        n = self._of_text
        lost = (self._scores[:n] - scores[:n]).double()
        change = math.expm1(float(lost.mean()))
        same = (likeliest[n:] == self._likeliest[n:]).double()
        return Loss(
            perplexity_change=change,
            perplexity_error=(1 + change) * float(lost.std()) / math.sqrt(n),
            same_token=float(same.mean()),
            places=len(same),
        )
