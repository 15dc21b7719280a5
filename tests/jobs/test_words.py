"""A schedule is said in words, and they mean what it does."""

from __future__ import annotations

import time
from datetime import datetime

import pytest

from backend.errors import InvalidInputError
from backend.jobs.schedule import crontab, upcoming
from backend.jobs.words import in_words


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("* * * * *", "Every minute"),
        ("*/15 * * * *", "Every 15 minutes"),
        ("0 * * * *", "Every hour, on the hour"),
        ("5,35 * * * *", "Every hour, 5 and 35 minutes past"),
        ("0 2 * * *", "Every day at 02:00"),
        ("30 7 * * mon-fri", "Monday to Friday at 07:30"),
        ("0 6 * * 0", "Every Sunday at 06:00"),
        ("0 6 * * 7", "Every Sunday at 06:00"),
        ("0 6,18 * * 6,0", "Sunday and Saturday at 06:00 and 18:00"),
        ("0 */6 * * *", "Every 6 hours"),
        ("10 */6 * * *", "Every 6 hours, 10 minutes past"),
        ("0 9-17 * * 1-5", "Every hour from 09:00 to 17:00, Monday to Friday"),
        ("*/10 9-17 * * *", "Every 10 minutes from 09:00 to 17:59"),
        ("0 0 1 * *", "On day 1 of the month at 00:00"),
        ("0 0 1,15 1 *", "On days 1 and 15 of the month at 00:00, in January"),
        ("0 0 last * *", "On the last day of the month at 00:00"),
        ("0 0 13 * fri", "On day 13 of the month where it is a Friday at 00:00"),
    ],
)
def test_a_schedule_is_said_in_words(fields: str, words: str) -> None:
    assert in_words(fields) == words


def test_what_is_no_schedule_has_no_words() -> None:
    with pytest.raises(InvalidInputError, match="Five fields"):
        in_words("whenever")


def test_the_next_times_follow_each_other_and_are_those_of_the_schedule() -> None:
    zone = crontab("0 6 * * 1").timezone
    times = upcoming("0 6 * * 1", time.time(), 3)
    assert [datetime.fromtimestamp(at, zone).strftime("%a %H:%M") for at in times] == ["Mon 06:00"] * 3
    assert times == sorted(set(times)) and times[0] > time.time()
