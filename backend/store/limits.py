"""What a key, or an installation, may use: requests a minute and money a day and a month. Money in nano-dollars."""

from __future__ import annotations

from dataclasses import dataclass

WARN_PERCENT = 80


@dataclass(frozen=True, slots=True)
class Limits:
    """None where there is no limit; 0 nano-dollars let nothing through.

    Attributes:
        requests_per_minute: that are begun; as many may come at once after a quiet minute.
        day, month: nano-dollars in a day and a calendar month (UTC).
        warn_percent: of a budget, from which its use is told.
    """

    requests_per_minute: int | None = None
    day: int | None = None
    month: int | None = None
    warn_percent: int = WARN_PERCENT


NONE = Limits()
