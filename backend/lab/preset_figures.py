"""What each preset was measured to cost on this machine, as it is kept, and what other traffic would have cost so.

Times, not money: a price that changes changes no measurement.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from backend.lab.estimate import Estimate
from backend.store.database import Database
from backend.store.tables.settings import Setting

KEY = "preset_figures"


@dataclass(frozen=True, slots=True)
class PresetFigures:
    """What serving took under one preset: `rounds` rounds of `requests` document questions at once.

    Attributes:
        when: seconds since the epoch.
        fingerprint: of the model's weights; figures of another model say nothing of this one.
        variant: how the weights were held.
        seconds_per_token: of the machine, for a token read or written.
        prefill_seconds_per_token: of the machine, for a prompt token, found in a cache or not.
        decode_seconds_per_token: of the machine, for a token written.
        ttft: median seconds to the first token.
        tokens_per_second: written by all requests together.
        disturbed: rounds during which others were served too.
    """

    preset: str
    when: float
    fingerprint: str
    device: str
    variant: str
    rounds: int
    requests: int
    seconds_per_token: Estimate
    prefill_seconds_per_token: Estimate
    decode_seconds_per_token: Estimate
    ttft: Estimate
    tokens_per_second: Estimate
    disturbed: int = 0

    def seconds_for(self, prompt_tokens: int, output_tokens: int) -> Estimate:
        """Machine seconds that other traffic would have taken, with the ends of both intervals added up."""
        read, written = self.prefill_seconds_per_token, self.decode_seconds_per_token
        return Estimate(
            read.mean * prompt_tokens + written.mean * output_tokens,
            read.low * prompt_tokens + written.low * output_tokens,
            read.high * prompt_tokens + written.high * output_tokens,
        )


class FiguresStore:
    """Keeps the latest figures of each preset."""

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.session() as session:
            row = session.get(Setting, KEY)
            stored: dict[str, Any] = dict(row.value) if row is not None else {}
        self._figures = {name: _read(value) for name, value in stored.items()}

    def all(self, fingerprint: str) -> dict[str, PresetFigures]:
        """By preset, those measured with these weights."""
        return {name: one for name, one in self._figures.items() if one.fingerprint == fingerprint}

    def keep(self, figures: PresetFigures) -> None:
        """Store figures in place of the preset's former ones."""
        self._figures = {**self._figures, figures.preset: figures}
        with self._database.session() as session:
            session.merge(Setting(key=KEY, value={name: asdict(one) for name, one in self._figures.items()}))


def _read(value: dict[str, Any]) -> PresetFigures:
    fields: dict[str, Any] = {k: Estimate(**v) if isinstance(v, dict) else v for k, v in value.items()}
    return PresetFigures(**fields)
