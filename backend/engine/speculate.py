"""Speculation by prompt lookup (Saxena 2023): guess that what followed the last few tokens before follows them again.

A guess is checked by the model in the same step that would have made one token. The check draws each token exactly as
it would have been drawn without a guess and keeps the guess only where both agree, so greedy and sampled output are
the same with and without.
"""

from __future__ import annotations

from typing import Protocol

LONGEST, SHORTEST = 4, 2
"""Tokens of the n-gram that is looked up; the longest that occurred before wins."""
MOST = 8
"""Tokens guessed at most."""
PATIENCE = 3
"""Guesses in a row that may fail before guessing pauses."""
PAUSE = 24
"""Tokens generated before another try."""


class Drafter(Protocol):
    """Guesses a sequence's next tokens; one per sequence, so it may remember. A draft model fits in here too."""

    def propose(self, tokens: list[int], room: int) -> list[int]:
        """Guess up to `room` tokens that follow `tokens`; empty when there is nothing to go by."""
        ...

    def learn(self, proposed: int, accepted: int, length: int) -> None:
        """Hear how a guess did, `length` being the sequence's tokens now."""
        ...


class PromptLookup:
    """One sequence's index of n-grams, and how well its guesses have done."""

    def __init__(self) -> None:
        self._last: dict[tuple[int, ...], int] = {}  # n-gram → where it last ended
        self._indexed = 0
        self._length = 4
        self._failures = 0
        self._paused_until = 0

    def propose(self, tokens: list[int], room: int) -> list[int]:
        """Guess up to `room` tokens that follow `tokens`; empty when there is nothing to go by."""
        self._index(tokens)
        if room < 1 or len(tokens) < self._paused_until:
            return []
        for n in range(LONGEST, SHORTEST - 1, -1):
            end = self._last.get(tuple(tokens[-n:]))
            if end is not None:
                return tokens[end : end + min(room, self._length)]
        return []

    def _index(self, tokens: list[int]) -> None:
        """Index every n-gram that ends before the last token, so that a look-up never finds itself."""
        for end in range(max(self._indexed, 1), len(tokens)):
            for n in range(SHORTEST, min(LONGEST, end) + 1):
                self._last[tuple(tokens[end - n : end])] = end
        self._indexed = max(self._indexed, len(tokens))

    def learn(self, proposed: int, accepted: int, length: int) -> None:
        """Adapt: guess further after success, less after failure, and pause where it does not pay."""
        if accepted == proposed:
            self._length = min(self._length * 2, MOST)
        else:
            self._length = max(accepted + 1, 2)
        self._failures = 0 if accepted else self._failures + 1
        if self._failures >= PATIENCE:
            self._failures, self._paused_until = 0, length + PAUSE
