"""What batch work may add to the steps of people who wait, and how long a step may be that it has to itself.

Batch work takes what real time leaves. How much that is depends on the machine, so it is not predicted but followed: a
step with batch work in it is held against what such a step takes without.
"""

from __future__ import annotations

BESIDE = 0.2
"""How much longer a step may take for the sake of batch work, as a share of it. ITL is allowed a quarter."""
CAUTION = 0.8
"""Share of the time allowed that is aimed at, since steps vary."""
PLAIN_EVERY = 16
"""Every so many steps nothing of batch work is computed beside real time, to learn again what a plain step takes."""
BRIEF = 0.03
"""Seconds that a step of batch work alone may take while people come: who arrives in it waits for its end."""
FEWEST = 16
"""Tokens that such a step computes in any case."""
LATELY = 5.0
"""Seconds since real-time work was last there for which people are taken to come."""
EMBEDDING_EVERY = 25
"""Steps of decoding between two passes of batch embeddings beside real time: fewer gaps than p95 sees."""
LEAST = 0.04
"""Tokens a step of real time takes on in any case: one in 25 steps, fewer than p95 sees, to learn what it costs."""
SMOOTHING = 0.2
"""What the latest step counts for."""


class BatchShare:
    """Follows step times and says how many tokens of batch work the next step may compute."""

    def __init__(self) -> None:
        self.floor = 0.0  # of the machine's time that batch work gets in any case, while there is some
        self._plain: dict[int, float] = {}  # sequences that decode → seconds of a step without batch work
        self._cost = 0.0  # seconds that a token of batch work adds to such a step
        self._beside = 1.0  # tokens
        self._credit = 0.0  # of those, what no whole token came of yet
        self._alone = float(FEWEST)  # tokens
        self._since_plain = 0
        self._owed = 0.0  # seconds that are wanting to the floor
        self._urgent_at = float("-inf")
        self._since_embedding = EMBEDDING_EVERY

    def beside(self) -> int:
        """Tokens of batch work for a step with real-time work in it."""
        if self._owed > BRIEF:  # what the floor promises, in one piece: more is done in a step that is longer
            return max(int(self._beside), int(self._alone))
        if self._since_plain >= PLAIN_EVERY:
            return 0
        self._credit = self._credit % 1.0 + self._beside
        return int(self._credit)

    def alone(self, now: float, budget: int) -> int:
        """Tokens for a step of batch work alone."""
        return budget if now - self._urgent_at > LATELY else min(budget, int(self._alone))

    def may_embed(self, urgent: bool) -> bool:
        """Whether a pass of batch embeddings may follow this step."""
        self._since_embedding += 1
        if urgent and self._since_embedding < EMBEDDING_EVERY:
            return False
        self._since_embedding = 0
        return True

    def learn(self, now: float, urgent: int, urgent_prefill: bool, batch: int, seconds: float, wanted: bool) -> None:
        """Take in a step.

        Args:
            now: seconds, of any clock that does not go back.
            urgent: real-time sequences in it.
            urgent_prefill: it read of a real-time prompt, so nobody knows what it takes without batch work.
            batch: tokens of batch work in it.
            seconds: that it took.
            wanted: there is batch work that could have been computed.
        """
        if not urgent:
            fit = self._alone * min(BRIEF / max(seconds, 1e-9), 1.3) if batch >= 0.8 * self._alone else self._alone
            self._alone = max(float(FEWEST), fit)
            self._owed = 0.0
            return
        self._urgent_at = now
        self._owed = self._owed + self.floor * seconds if wanted else 0.0
        self._since_plain = self._since_plain + 1 if batch else 0
        if urgent_prefill:
            return
        plain = self._plain.get(urgent)
        if not batch:
            self._plain[urgent] = seconds if plain is None else plain + SMOOTHING * (min(seconds, 2 * plain) - plain)
            return
        if plain is None:  # nothing to hold it against: the next one is plain
            self._since_plain = PLAIN_EVERY
            return
        extra = max(seconds - plain, 0.0)
        self._owed = max(0.0, self._owed - extra)
        self._cost += SMOOTHING * (extra / batch - self._cost)
        fit = CAUTION * BESIDE * plain / max(self._cost, 1e-9)
        # One token that would be felt is not made good by others without.
        self._beside = min(fit, 1.3 * self._beside + 0.1) if fit > 0.5 else LEAST
