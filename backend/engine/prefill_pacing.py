"""How fast a long prompt is read beside sequences that decode: chunk sizes that follow the time of each step."""

from __future__ import annotations

CAUTION = 0.8
"""Share of the time allowed that is aimed at, since steps vary."""
UNNOTICED = 0.05
"""Seconds that a step may take in any case: 20 tokens a second are more than anybody reads; short pieces cost twice."""
FIRST_CHUNK = 8
PIECE = 4
"""Tokens that the attention kernel takes together where three query heads share a key; three cost as much as four."""
PLAIN_EVERY = 16
"""Every so many steps nothing of a long prompt is read, to learn again what a plain step takes."""


class PrefillPacing:
    """How many tokens of a long prompt fit beside a decode step; corrected by what each step really took.

    A token's cost grows with what stands before it and differs by machine, so it is not predicted but followed.
    """

    def __init__(self) -> None:
        self.stall = 1.0  # how much longer a step may take for the sake of a long prompt, as a share of a plain one
        self._plain = 0.0  # seconds of a step in which nobody reads a prompt
        self._size = float(FIRST_CHUNK)
        self._since_plain = 0  # steps since the last plain one

    def learn(self, decoding: int, tokens: int, seconds: float) -> None:
        """Take in a step: sequences that decoded, prompt tokens read beside them, and its time."""
        if not decoding:
            return
        self._since_plain = self._since_plain + 1 if tokens else 0
        if not tokens:  # one late step says little
            self._plain = seconds if not self._plain else 0.7 * self._plain + 0.3 * min(seconds, 2 * self._plain)
        elif self._plain and tokens >= self._whole_pieces():  # a prompt's last piece says nothing about larger ones
            allowed = CAUTION * max(self.stall * self._plain, min(self.stall, 1.0) * (UNNOTICED - self._plain))
            extra = seconds - self._plain
            fit = max(tokens * min(allowed / max(extra, 1e-9), 3.0), 0.5 * self._size)
            self._size = max(1.0, min(fit, 0.7 * self._size + 0.3 * fit))  # back at once, forward by and by

    def chunk_size(self) -> int:
        """Tokens of long prompts that the next step may read."""
        return 0 if self._since_plain >= PLAIN_EVERY else self._whole_pieces()

    def _whole_pieces(self) -> int:
        tokens = int(self._size)
        return tokens if tokens < PIECE - 1 else max(PIECE, tokens // PIECE * PIECE)
