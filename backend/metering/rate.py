"""What a token costs to compute on this machine: seconds ÷ tokens over the latest work."""

from __future__ import annotations

import threading

HALF_LIFE = 20_000
"""Tokens after which older work counts half."""


class TokenRate:
    """Sums that fade with the tokens that follow, so that a long prompt counts for more than a short one.

    Args:
        least: work on fewer tokens than this is not counted: what a step costs whatever is in it would weigh in.
    """

    def __init__(self, least: int = 1) -> None:
        self._least = least
        self._seconds = self._tokens = 0.0
        self._lock = threading.Lock()

    def learn(self, seconds: float, tokens: int) -> None:
        """Count work of `seconds` on `tokens`."""
        if tokens < self._least or seconds <= 0:
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
