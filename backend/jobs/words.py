"""What a schedule means, in words: "Monday to Friday at 07:30". Knows nothing of time zones."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from apscheduler.triggers.cron import CronTrigger

from backend.jobs.schedule import WEEKDAYS, crontab

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
DAYS = dict(zip(WEEKDAYS, ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"), strict=True))
WORKDAYS = ("mon", "tue", "wed", "thu", "fri")
LEAST_RANGE = 3
"""Hours in a row from which they are named by the first and the last."""
SOME_DAY = datetime(2024, 1, 1)
"""Of a month that has every day."""


def in_words(fields: str) -> str:
    """When a schedule fires, as a sentence without its full stop.

    Raises:
        InvalidInputError: these are not five fields that can be read.
    """
    trigger = crontab(fields)
    _, _, day, _, _ = fields.split()
    time = _time(_taken(trigger, "minute", range(60)), _taken(trigger, "hour", range(24)))
    days = _days(trigger, day)
    months = [MONTHS[month - 1] for month in _taken(trigger, "month", range(1, 13))]
    season = f", in {_listed(months)}" if len(months) < len(MONTHS) else ""
    sentence = f"{days or 'every day'} {time}" if time.startswith("at ") else f"{time}{', ' + days if days else ''}"
    return sentence[0].upper() + sentence[1:] + season


def _taken(trigger: CronTrigger, unit: str, values: Sequence[int]) -> list[int]:
    """Which values of a unit a trigger fires at."""
    field = next(field for field in trigger.fields if field.name == unit)
    return [value for value in values if field.get_next_value(SOME_DAY.replace(**{unit: value})) == value]  # type: ignore[arg-type]


def _time(minutes: list[int], hours: list[int]) -> str:
    if len(hours) == 24:
        return _within_the_hour(minutes)
    step = _step(hours, 24)
    if len(minutes) == 1:
        past = f", {minutes[0]} minutes past" if minutes[0] else ""
        if step and len(hours) >= LEAST_RANGE:
            return f"every {step} hours{past}"
        if _in_a_row(hours):
            return f"every hour from {hours[0]:02}:{minutes[0]:02} to {hours[-1]:02}:{minutes[0]:02}"
        return f"at {_listed([f'{hour:02}:{minutes[0]:02}' for hour in hours])}"
    within = _within_the_hour(minutes)
    if _in_a_row(hours) or len(hours) == 1:
        return f"{within} from {hours[0]:02}:00 to {hours[-1]:02}:59"
    return f"{within}, in the hours {_listed([f'{hour:02}' for hour in hours])}"


def _within_the_hour(minutes: list[int]) -> str:
    if len(minutes) == 60:
        return "every minute"
    if minutes == [0]:
        return "every hour, on the hour"
    if len(minutes) > 1 and (step := _step(minutes, 60)):
        return f"every {step} minutes"
    return f"every hour, {_listed([str(minute) for minute in minutes])} minutes past"


def _days(trigger: CronTrigger, day: str) -> str:
    """Which days; empty for all of them."""
    weekdays = str(next(field for field in trigger.fields if field.name == "day_of_week")).split(",")
    parts = []
    if day != "*":
        dates = [str(one) for one in _taken(trigger, "day", range(1, 32))]
        named = "the last day" if "last" in day else f"day{'s' if len(dates) > 1 else ''} {_listed(dates)}"
        parts.append(f"on {named} of the month")
    if len(weekdays) < len(WEEKDAYS):
        names = [DAYS[name] for name in WEEKDAYS if name in weekdays]
        if parts:
            parts.append(f"where it is a {_listed(names, 'or')}")
        elif len(names) == 1:
            parts.append(f"every {names[0]}")
        else:
            parts.append("Monday to Friday" if set(weekdays) == set(WORKDAYS) else _listed(names))
    return " ".join(parts)


def _step(values: list[int], end: int) -> int | None:
    """The distance between values that are spread evenly from 0 on; None where they are not."""
    step = end // len(values)
    return step if values == list(range(0, end, step)) else None


def _in_a_row(values: list[int]) -> bool:
    return len(values) >= LEAST_RANGE and values == list(range(values[0], values[-1] + 1))


def _listed(names: list[str], last: str = "and") -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"
