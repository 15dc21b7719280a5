"""What reading a token costs on this machine: rates fitted to the latest work, so that they are those of that time."""

from __future__ import annotations

import threading

HALF_LIFE = 20_000
"""Tokens after which older work counts half."""
RIDGE = 1e-3
"""How much, beside what was measured, the two parts of a rate are drawn to one: where all prompts were alike, they
cannot be told apart."""


class TokenRate:
    """Sums that fade with the tokens that follow, so that a long text counts for more than a short one."""

    def __init__(self) -> None:
        self._seconds = self._tokens = 0.0
        self._lock = threading.Lock()

    def learn(self, seconds: float, tokens: int) -> None:
        """Count work of `seconds` on `tokens`."""
        if tokens < 1 or seconds <= 0:
            return
        fade = 0.5 ** (tokens / HALF_LIFE)
        with self._lock:
            self._seconds = self._seconds * fade + seconds
            self._tokens = self._tokens * fade + tokens

    @property
    def seconds_per_token(self) -> float:
        """0 while nothing was counted."""
        with self._lock:
            return self._seconds / self._tokens if self._tokens else 0.0


class PrefillRate:
    """Seconds to read tokens at their positions: a part for each token, and one for each token it looks back at.

    The first token of a long prompt is cheaper than its last. A prompt of which `cached` tokens were known tells what
    the others took; what the cached ones would have taken follows from both parts. Least squares over what fades.

    Args:
        least: of a prompt of which fewer tokens were read nothing is learned: what a step costs whatever is in it would
            weigh in.
    """

    def __init__(self, least: int) -> None:
        self._least = least
        # Sums of products over prompts, each divided by its tokens: tokens², tokens × looks, looks², and with seconds.
        self._nn = self._ns = self._ss = self._ny = self._sy = 0.0
        self._lock = threading.Lock()

    def learn(self, seconds: float, cached: int, prompt: int) -> None:
        """Count a prompt of which the tokens behind `cached` were read in `seconds`."""
        tokens = prompt - cached
        if tokens < self._least or seconds <= 0:
            return
        looks = _looks(cached, prompt)
        fade = 0.5 ** (tokens / HALF_LIFE)
        with self._lock:
            self._nn = self._nn * fade + tokens
            self._ns = self._ns * fade + looks
            self._ss = self._ss * fade + looks * looks / tokens
            self._ny = self._ny * fade + seconds
            self._sy = self._sy * fade + looks * seconds / tokens

    def seconds(self, start: int, end: int) -> float:
        """What reading the tokens of these positions would take; 0 while nothing was counted."""
        with self._lock:
            each, look = self._fit()
        return each * (end - start) + look * _looks(start, end)

    def _fit(self) -> tuple[float, float]:
        if not self._nn:
            return 0.0, 0.0
        ss = self._ss * (1 + RIDGE)
        determinant = self._nn * ss - self._ns**2
        each = (self._ny * ss - self._sy * self._ns) / determinant
        look = (self._nn * self._sy - self._ns * self._ny) / determinant
        if look < 0:
            return self._ny / self._nn, 0.0
        if each < 0:
            return 0.0, self._sy / self._ss
        return each, look


def _looks(start: int, end: int) -> float:
    """Tokens that those from `start` to `end` look back at, all together."""
    return (end * end - start * start) / 2
