"""Crontab's five fields as a trigger of APScheduler's, which counts weekdays from Monday where crontab has Sunday."""

from __future__ import annotations

import re

from apscheduler.triggers.cron import CronTrigger

from backend.errors import InvalidInputError

WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


def crontab(fields: str) -> CronTrigger:
    """A trigger in the server's time zone.

    Raises:
        InvalidInputError: these are not five fields that can be read.
    """
    try:
        minute, hour, day, month, weekday = fields.split()
        return CronTrigger(minute=minute, hour=hour, day=day, month=month, day_of_week=_weekdays(weekday))
    except ValueError as error:
        raise InvalidInputError(
            f"The schedule {fields!r} cannot be read ({error}). Five fields are expected: minute hour day month "
            "weekday.",
            param="cron",
        ) from error


def _weekdays(field: str) -> str:
    """Weekdays by name: 0 and 7 are Sunday, and a range may go over the end of the week."""
    days = {name: number for number, name in enumerate(WEEKDAYS)}
    found: set[int] = set()
    for part in field.lower().split(","):
        match = re.fullmatch(r"(\*|(\w+)(?:-(\w+))?)(?:/([1-9]\d*))?", part)
        if match is None:
            raise ValueError(f"{part!r} is no weekday")
        every, first, last, step = match.groups()
        if every == "*":
            first, last = "0", "6"
        elif last is None:
            last = "6" if step else first
        ends = [days.get(end, int(end) if end.isdigit() else 8) for end in (first, last)]
        if max(ends) > 7:
            raise ValueError(f"{part!r} is no weekday")
        low, high = ends[0] % 7 if ends[0] == ends[1] else ends[0], ends[1]
        high = low if ends[0] == ends[1] else high if high >= low else high + 7
        found.update(day % 7 for day in range(low, high + 1, int(step or 1)))
    return ",".join(WEEKDAYS[day] for day in sorted(found))
