"""How long a live measurement takes for what, where it is, and what may come between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from backend.engine.switches import Switches
from backend.switchboard.borrowed_run import BorrowedRun
from backend.switchboard.worth import Effect, Measure, Verdict
from backend.switchboard.worth_caches import Arms
from backend.switchboard.worth_trial import Trial


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things take, in seconds.

    Attributes:
        tick: between two looks at whether to go on.
        shortest, longest: of a block's count; in between, a thirtieth of the time given.
        wanted: requests that a block waits for, up to `patience` times its length or a sixteenth of the time given.
        wash_out: most of it, whatever the switch asks for.
        drain: longest wait for those who were counted.
        window: over which it is seen whether people wait too long.
        calm: least time of giving way.
        away: longest that the engine may be missing.
    """

    tick: float = 0.25
    shortest: float = 4.0
    longest: float = 20.0
    wanted: int = 4
    patience: float = 4.0
    wash_out: float = 5.0
    drain: float = 30.0
    window: float = 30.0
    calm: float = 5.0
    away: float = 120.0


@dataclass(frozen=True, slots=True)
class Course:
    """Where a measurement is.

    Attributes:
        switch: being measured, or that was last.
        doing: in words; empty while nothing is measured.
        blocks: that count.
        requests_with, requests_without: that were compared.
        effects: as they stand now.
        left: seconds of the time given.
        more_minutes: that would decide it at this rate, as far as that can be told.
        error: why the last one ended early; empty where it did not.
    """

    switch: str = ""
    doing: str = ""
    blocks: int = 0
    requests_with: int = 0
    requests_without: int = 0
    verdict: Verdict = Verdict.NOT_RESOLVED
    effects: dict[Measure, Effect] = field(default_factory=dict)
    left: float = 0.0
    given: float = 0.0
    more_minutes: float | None = None
    error: str = ""

    @property
    def running(self) -> bool:
        """Whether something is being measured."""
        return bool(self.doing)


class TimeOverError(Exception):
    """The time given is over."""


class AwayError(Exception):
    """The engine does not serve: the block says nothing."""


class LateError(Exception):
    """People wait too long: the measurement gives way."""


@dataclass(slots=True)
class Task:
    """What one measurement works with; moments are monotonic, `calm_since` is since the epoch."""

    run: BorrowedRun
    lend: Callable[[Switches], None]
    name: str
    arms: Arms
    own: Switches
    trial: Trial
    limit: float
    began: float
    until: float
    asked: Switches
    checked: float = 0.0
    calm_since: float = 0.0
    gave_way: int = 0
