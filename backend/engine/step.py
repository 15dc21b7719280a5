"""What one step of the engine computes."""

from __future__ import annotations

from dataclasses import dataclass, field

from backend.engine.sequence import Sequence


@dataclass(slots=True)
class Scheduled:
    """A sequence and how many of its next tokens this step computes."""

    seq: Sequence
    tokens: int
    draft: list[int] = field(default_factory=list)  # the last of `tokens`, guessed and to be checked
    reads: bool = False  # several tokens of a prompt (or of what a preemption lost), rather than the next token
    prefill: bool = False  # the same, or a prompt's last token alone
    accepted: int = 0  # guesses of `draft` that the step found right


@dataclass(slots=True)
class Step:
    """A step as far as it is planned."""

    budget: int  # tokens that are left to it
    paced: int | None = None  # of those, for prompts that are read at a pace; None: not known yet
    items: list[Scheduled] = field(default_factory=list)
    chosen: set[str] = field(default_factory=set)

    def leave_at_most(self, tokens: int) -> None:
        """Let what is planned from here on come to no more tokens."""
        self.budget = min(self.budget, tokens)
