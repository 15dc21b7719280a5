"""Which stored sums cover a range of time: days, hours and minutes as far as they go, entries at its edges."""

from __future__ import annotations

from dataclasses import dataclass

from backend.metering.entry import SECOND
from backend.metering.rollup import DAY, HOUR, HOUR_DAYS, LEVELS, MINUTE, MINUTE_DAYS


@dataclass(frozen=True, slots=True)
class Cover:
    """What makes up a range.

    Attributes:
        sums: (seconds of the level, first start, end) in seconds since the epoch.
        entries: [from, to) in nanoseconds since the epoch.
    """

    sums: tuple[tuple[int, int, int], ...]
    entries: tuple[tuple[int, int], ...]


def cover(since: float, until: float, now: float, keep_days: int) -> Cover:
    """The fewest sums that make up a range exactly.

    What is finer than is kept for times so old is rounded to the outside: to whole minutes where entries are deleted,
    to hours after 14 days, to days after 400.

    Args:
        since: seconds since the epoch.
        until: the same, not included.
        now: the same.
        keep_days: how long entries are kept.
    """
    first, end = _rounded(since, now, keep_days, up=False), _rounded(until, now, keep_days, up=True)
    if end <= first:
        return Cover((), ())
    sums: list[tuple[int, int, int]] = []
    entries: list[tuple[int, int]] = []
    left, right = first, end  # in nanoseconds, narrowed from level to level
    inner: list[tuple[int, int, int]] = []
    for level in LEVELS:
        size = level * SECOND
        low, high = -(-left // size) * size, right // size * size
        if low >= high:
            break
        edges = [(left, low), (high, right)]
        if level == MINUTE:
            entries += [edge for edge in edges if edge[0] < edge[1]]
        else:
            finer = LEVELS[LEVELS.index(level) - 1]
            sums += [(finer, a // SECOND, b // SECOND) for a, b in edges if a < b]
        left, right = low, high
        inner = [(level, left // SECOND, right // SECOND)]
    if not inner:
        entries = [(first, end)]
    return Cover((*sums, *inner), tuple(entries))


def level_for(step: int) -> int | None:
    """The coarsest level whose sums make up steps of so many seconds; None where only entries do."""
    return next((level for level in reversed(LEVELS) if step % level == 0), None)


def _rounded(moment: float, now: float, keep_days: int, *, up: bool) -> int:
    age = (now - moment) / DAY
    ns = int(moment * SECOND)
    grain = 1
    for days, level in ((keep_days, MINUTE), (MINUTE_DAYS, HOUR), (HOUR_DAYS, DAY)):
        if age >= days - 1:  # a day early: what is just being deleted is not counted on
            grain = level * SECOND
    return -(-ns // grain) * grain if up else ns // grain * grain
