"""What steps that read prompts take on this machine, and so what the tokens found in a cache would have taken.

A step takes a time whatever is in it (the weights are read once), a time for each token, and one for each token that a
token looks back at. All three are fitted to the latest steps. Tokens found in a cache save the last two and, where they
would have filled further steps, the first; the step that reads what is left is paid in any case.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from backend.engine.step import Scheduled

FADE = 0.5 ** (1 / 64)
"""Of what is known, with each further step: 64 steps ago counts half."""
LEAST_READ = 32
"""Tokens of a step from which it says what a token takes; smaller ones say what a step does."""
WORTH = 1.02
"""How much better a fit must be for a further part of it."""
PARTS = [part for count in (1, 2, 3) for part in itertools.combinations((1, 2, 0), count) if 1 in part]
"""Which of (step, token, look back) are fitted, the fewest first: never without a time for each token."""


class ReadingTimes:
    """Least squares of relative errors over steps that fade."""

    def __init__(self) -> None:
        self._variant = ""
        self._clear()

    def _clear(self) -> None:
        self._squares, self._products, self._count = np.zeros((3, 3)), np.zeros(3), 0.0

    def learn(self, scheduled: list[Scheduled], elapsed: float, variant: str) -> None:
        """Take in a step that was computed in `elapsed` seconds; other weights begin anew."""
        if variant != self._variant:
            self._variant = variant
            self._clear()
        tokens = sum(item.tokens for item in scheduled)
        known = self._count > 0
        if not any(item.prefill for item in scheduled) or not elapsed or (tokens < LEAST_READ and not known):
            return
        looks = sum(item.tokens * (item.seq.computed - item.tokens / 2) for item in scheduled)
        row = np.array([1.0, tokens, looks / 1000]) / elapsed
        self._squares = self._squares * FADE + np.outer(row, row)
        self._products = self._products * FADE + row
        self._count = self._count * FADE + 1

    def fit(self) -> tuple[float, float, float]:
        """Seconds of a step, of a token and of a token looked back at; zeros while nothing is known."""
        best, least = np.zeros(3), float("inf")
        if not self._count:
            return 0.0, 0.0, 0.0
        for part in PARTS:
            index = np.ix_(part, part)
            scale = np.sqrt(np.diag(self._squares)[list(part)]) + 1e-30
            square = self._squares[index] / np.outer(scale, scale) + 1e-9 * np.eye(len(part))
            found = np.linalg.solve(square, self._products[list(part)] / scale) / scale
            whole = np.zeros(3)
            whole[list(part)] = found
            error = max(float(self._count - 2 * whole @ self._products + whole @ self._squares @ whole), 1e-12)
            if (found >= 0).all() and error * WORTH < least:
                best, least = whole, error
        return float(best[0]), float(best[1]), float(best[2]) / 1000

    def seconds(self, cached: int, prompt: int, step_tokens: int) -> float:
        """What reading the first `cached` tokens of a prompt as well would have taken, in steps of `step_tokens`."""
        if cached <= 0:
            return 0.0
        step, token, look = self.fit()
        steps = -(-prompt // step_tokens) - -(-(prompt - cached) // step_tokens)
        return steps * step + token * cached + look * cached * cached / 2
