"""A crontab's weekdays mean what every crontab means by them."""

from __future__ import annotations

import pytest

from backend.errors import InvalidInputError
from backend.jobs.schedule import crontab


@pytest.mark.parametrize(
    ("field", "days"),
    [("0", "sun"), ("7", "sun"), ("1", "mon"), ("1-5", "mon,tue,wed,thu,fri"), ("mon-fri", "mon,tue,wed,thu,fri"),
     ("5-7", "sun,fri,sat"), ("0-2", "sun,mon,tue"), ("fri-mon", "sun,mon,fri,sat"), ("*/2", "sun,tue,thu,sat"),
     ("1,3,sat", "mon,wed,sat"), ("1-5/2", "mon,wed,fri"), ("*", "sun,mon,tue,wed,thu,fri,sat"),
     ("0-7", "sun,mon,tue,wed,thu,fri,sat")],
)  # fmt: skip
def test_weekdays_count_from_sunday(field: str, days: str) -> None:
    assert str(crontab(f"0 6 * * {field}").fields[4]) == days


@pytest.mark.parametrize(
    "fields", ["every day", "0 6 * * 8", "0 6 * * someday", "0 6 * *", "0 6 * * 1/0", "61 * * * *"]
)
def test_what_is_no_schedule_is_refused(fields: str) -> None:
    with pytest.raises(InvalidInputError, match="Five fields"):
        crontab(fields)
