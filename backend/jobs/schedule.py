"""When jobs run by themselves: crontab's five fields, read by APScheduler's trigger, and the thread that watches.

When a job fires next is in the job's own row, so a schedule cannot differ from its job, and nothing has to be kept in
step with anything. APScheduler counts weekdays from Monday where crontab has Sunday.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from apscheduler.triggers.cron import CronTrigger
from sqlmodel import col, func, select, update

from backend.errors import InvalidInputError
from backend.store.database import Database
from backend.store.tables.jobs import Job

log = logging.getLogger(__name__)

LONGEST_SLEEP = 30.0
"""Seconds after which the clock is looked at again, since it may have been set."""
PAUSE = 5.0
"""Seconds before firing is tried again when the database does not take it."""

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


def following(fields: str, now: float) -> float:
    """When a schedule fires next after a moment, in seconds since the epoch.

    Raises:
        InvalidInputError: these are not five fields that can be read, or no day is like that.
    """
    trigger = crontab(fields)
    moment = datetime.fromtimestamp(now, trigger.timezone) + timedelta(microseconds=1)
    fires: datetime | None = trigger.get_next_fire_time(None, moment)
    if fires is None:
        raise InvalidInputError(f"The schedule {fields!r} names a day that never comes.", param="cron")
    return fires.timestamp()


def upcoming(fields: str, now: float, count: int) -> list[float]:
    """The next times after a moment at which a schedule fires; raises as `following` does."""
    times: list[float] = []
    while len(times) < count:
        times.append(following(fields, times[-1] if times else now))
    return times


def zone_name() -> str:
    """The time zone of every schedule: the server's, by its name."""
    name = str(crontab("0 0 * * *").timezone)
    return name if name != "local" else f"UTC{datetime.now().astimezone():%z}"


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


class Schedule:
    """Watches for jobs whose time has come.

    Args:
        database: where the jobs are.
        fire: what to do with one; called again until the job's next time lies ahead.
    """

    def __init__(self, database: Database, fire: Callable[[str], None]) -> None:
        self._database, self._fire = database, fire
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="schedule", daemon=True)

    def start(self) -> None:
        """Begin; what came while no server ran is fired now."""
        self._thread.start()

    def wake(self) -> None:
        """A schedule was made or changed."""
        self._changed.set()

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join(PAUSE)

    def _work(self) -> None:
        planned = False
        while not self._closing.is_set():
            self._changed.clear()
            try:
                if not planned:
                    self._plan()
                    planned = True
                sleep = self._fire_due()
            except Exception:
                log.exception("schedules could not be looked at")
                sleep = PAUSE
            self._changed.wait(sleep)

    def _plan(self) -> None:
        """Reckon anew when each job fires, as the server's time zone may have changed; what is due stays due."""
        now = time.time()
        query = select(Job.id, Job.cron).where(col(Job.cron).is_not(None), func.coalesce(Job.next_run, now + 1) > now)
        with self._database.session() as session:
            for job_id, cron in session.exec(query).all():
                values: dict[str, object]
                try:
                    values = {"next_run": following(cron or "", now)}
                except InvalidInputError as error:
                    values = {"next_run": None, "note": error.message}
                session.connection().execute(update(Job).where(col(Job.id) == job_id).values(**values))

    def _fire_due(self) -> float:
        """Fire what is due; gives the seconds until something else is."""
        with self._database.session() as session:
            due = session.exec(select(Job.id).where(col(Job.next_run) <= time.time())).all()
        failed = False
        for job_id in due:
            try:
                self._fire(job_id)
            except Exception:  # the others' time has come all the same
                log.exception("job %s could not be fired", job_id)
                failed = True
        if failed:
            return PAUSE
        with self._database.session() as session:
            earliest = session.exec(select(func.min(Job.next_run))).one()
        return LONGEST_SLEEP if earliest is None else min(max(earliest - time.time(), 0.0), LONGEST_SLEEP)
