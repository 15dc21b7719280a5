"""What traffic cost beside what Baseline would have taken for the same tokens. Arithmetic; nothing is measured here."""

from __future__ import annotations

from dataclasses import dataclass

from backend.lab.estimate import Estimate
from backend.lab.preset_figures import PresetFigures
from backend.metering.entry import DOLLAR
from backend.metering.sums import Sums

MILLION = 1e6


@dataclass(frozen=True, slots=True)
class Standing:
    """US dollars for the same traffic.

    Attributes:
        tokens: read and written, wherever they came from.
        paid: for the requests' share of the machine.
        baseline: what Baseline would have cost, by its measured times a token; None where it was not measured.
    """

    tokens: int
    paid: float
    baseline: Estimate | None

    @property
    def paid_per_million(self) -> float:
        """US dollars for a million tokens."""
        return self.paid / self.tokens * MILLION

    @property
    def baseline_per_million(self) -> Estimate | None:
        """The same, of Baseline."""
        return self.baseline.times(MILLION / self.tokens) if self.baseline is not None else None

    @property
    def ratio(self) -> Estimate | None:
        """How many times less is paid than Baseline would cost."""
        return self.baseline.times(1 / self.paid) if self.baseline is not None and self.paid > 0 else None


def standing(sums: Sums, baseline: PresetFigures | None, per_hour: float) -> Standing | None:
    """Of the requests in `sums`, at `per_hour` US dollars; None where there were no tokens.

    Baseline keeps nothing: it reads every prompt token, also those found in a cache here, and writes again every answer
    that was given again. Embeddings are left out on both sides.
    """
    read = sums.prompt_tokens + sums.repeated_prompt_tokens
    written = sums.output_tokens + sums.repeated_output_tokens
    if not read + written:
        return None
    dear = baseline.seconds_for(read, written).times(per_hour / 3600) if baseline is not None else None
    return Standing(read + written, sums.cost / DOLLAR, dear)
