"""Who has used up a budget or a rate is refused before anything is begun, is told so in time, and may come again."""

from __future__ import annotations

import sqlite3
import threading
import time
from datetime import UTC, datetime

import pytest

from backend.engine.messages import BATCH, REALTIME, SamplingParams
from backend.errors import BudgetError, RateError
from backend.generation.request import TextRequest
from backend.generation.service import GenerationService
from backend.generation.stream import Generation
from backend.metering.budgets import Budgets, Period
from backend.metering.entry import DOLLAR, SECOND, Entry
from backend.metering.happenings import Happenings
from backend.store.limits import Limits
from backend.store.tables.happenings import HappeningKind
from backend.store.tables.usage import Outcome, UsageKind
from tests.conftest import until
from tests.generation.conftest import Room

NOON = datetime(2026, 10, 23, 12, tzinfo=UTC).timestamp()
DAY = 86_400


class Purse:
    """Budgets over the room's real ledger, with a clock of the test's and limits of keys in a dictionary."""

    def __init__(self, room: Room) -> None:
        self.room, self.now = room, NOON
        self.limits: dict[str, Limits] = {}
        self.happenings = Happenings(room.database)
        self.budgets = self.made()

    def made(self) -> Budgets:
        return Budgets(
            self.room.database, self.room.ledger.queries, lambda key: self.limits.get(key, Limits()), "tf-{}".format,
            self.happenings,
            clock=lambda: self.now,
        )  # fmt: skip

    def spend(self, cost: int, key: str = "") -> None:
        """An entry of a cost in nano-dollars."""
        self.budgets.observe(entry_of(cost, key, self.now))

    def told(self) -> list[str]:
        assert self.room.database.writer.flush()
        return [one.text for one in self.happenings.between(0, 1e12, (HappeningKind.BUDGET,))][::-1]


def entry_of(cost: int, key: str, now: float) -> Entry:
    stamp = int(now) * SECOND
    return Entry(
        "r", UsageKind.GENERATE, "api", "realtime", "m", Outcome.STOP, stamp, stamp, 1, cost, key_id=key
    )  # fmt: skip


@pytest.fixture
def purse(room: Room) -> Purse:
    return Purse(room)


def test_a_used_up_budget_refuses_until_its_day_ends(purse: Purse) -> None:
    purse.limits["key"] = Limits(day=DOLLAR)
    purse.spend(DOLLAR - 1, "key")
    purse.budgets.take("key")
    purse.spend(1, "key")
    with pytest.raises(BudgetError, match=r"\$1 for this day") as refused:
        purse.budgets.take("key")
    assert refused.value.status == 429 and refused.value.retry_after == DAY / 2
    purse.budgets.take("another"), purse.budgets.take("")
    purse.now += DAY / 2
    purse.budgets.take("key")


def test_a_months_budget_outlives_its_days(purse: Purse) -> None:
    purse.limits["key"] = Limits(month=2 * DOLLAR)
    for _ in range(2):
        purse.spend(DOLLAR, "key")
        purse.now += DAY
    with pytest.raises(BudgetError, match="this month") as refused:
        purse.budgets.check("key")
    assert purse.now + refused.value.retry_after == Period.MONTH.bounds(purse.now)[1]
    assert purse.budgets.spent("key").day == 0 and purse.budgets.spent("key").month == 2 * DOLLAR
    purse.now += refused.value.retry_after
    purse.budgets.check("key")


def test_the_installations_budget_counts_what_has_no_key_too(purse: Purse) -> None:
    purse.budgets.limit(day=DOLLAR)
    purse.spend(DOLLAR // 2, "key")
    purse.spend(DOLLAR // 2)
    for caller in ("", "key", "another"):
        with pytest.raises(BudgetError, match="This installation"):
            purse.budgets.check(caller)
    purse.budgets.limit(day=None)
    purse.budgets.check("")


def test_a_budget_of_nothing_lets_nothing_through(purse: Purse) -> None:
    purse.limits["key"] = Limits(day=0)
    with pytest.raises(BudgetError):
        purse.budgets.take("key")


def test_nobody_waits_while_limits_are_being_stored(purse: Purse) -> None:
    other = sqlite3.connect(purse.room.database.engine.url.database or "", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    setting = threading.Thread(target=purse.budgets.limit, kwargs={"day": DOLLAR})
    setting.start()
    try:
        until(lambda: purse.budgets._changing.locked(), "the limits are being stored")
        purse.spend(DOLLAR)
        purse.budgets.take("key")
        assert purse.budgets.spent().day == DOLLAR and setting.is_alive()
    finally:
        other.execute("ROLLBACK")
        other.close()
        setting.join()
    assert purse.budgets.installation.day == DOLLAR
    with pytest.raises(BudgetError):
        purse.budgets.take("key")


def test_use_is_told_once_nearly_spent_and_once_wholly(purse: Purse) -> None:
    purse.limits["key"] = Limits(day=10 * DOLLAR, warn_percent=70)
    for _ in range(12):
        purse.spend(DOLLAR, "key")
    nearly, wholly = purse.told()
    assert nearly.startswith("Key tf-key has spent $7 of $10")
    assert "$10 of $10" in wholly and "refused until 2026-10-24 00:00 UTC" in wholly
    purse.now += DAY
    purse.spend(8 * DOLLAR, "key")
    assert len(purse.told()) == 3, "another day"


def test_a_rate_lets_a_minutes_worth_through_and_says_when_the_next_may_come(purse: Purse) -> None:
    purse.limits["key"] = Limits(requests_per_minute=6)
    for _ in range(6):
        purse.budgets.take("key")
    with pytest.raises(RateError) as refused:
        purse.budgets.take("key")
    assert refused.value.status == 429 and refused.value.retry_after == 10
    purse.now += 10
    purse.budgets.take("key")
    with pytest.raises(RateError):
        purse.budgets.take("key")
    purse.budgets.take("another")
    purse.limits["key"] = Limits(requests_per_minute=600)  # a changed rate holds at once
    purse.now += 0.1
    purse.budgets.take("key")


def test_a_request_that_the_installation_refuses_costs_its_key_nothing_of_its_rate(purse: Purse) -> None:
    purse.limits["key"] = Limits(requests_per_minute=2)
    purse.budgets.limit(requests_per_minute=1)
    purse.budgets.take("key")
    for _ in range(5):
        with pytest.raises(RateError, match="This installation"):
            purse.budgets.take("key")
    purse.budgets.limit(requests_per_minute=None)
    purse.budgets.take("key")


def test_what_was_spent_and_allowed_outlives_a_restart(purse: Purse) -> None:
    purse.now = time.time()  # the ledger's own clock, by which the sums are
    purse.room.ledger.open(thread=False)
    purse.room.ledger.on_entry(purse.budgets.observe)
    purse.budgets.limit(month=5 * DOLLAR, requests_per_minute=9)
    for key in ("one", "two", ""):
        request = TextRequest(text="Hi", key_id=key, sampling=SamplingParams(temperature=1.0))
        generation = purse.room.service.start(purse.room.service.prepare(request))
        purse.room.engine.answer(generation.id)
    assert purse.room.ledger.flush(60)
    again, before = purse.made(), purse.budgets
    assert again.installation == before.installation == Limits(requests_per_minute=9, month=5 * DOLLAR)
    for key in ("one", "two", ""):
        assert again.spent(key) == before.spent(key) and again.spent(key).month > 0
    assert again.spent().month == 3 * again.spent("one").month == purse.room.ledger.queries.sums().cost


def test_what_the_console_and_jobs_start_meets_the_installations_budget_before_the_engine_does(purse: Purse) -> None:
    room = purse.room
    service = GenerationService(
        room.engine, lambda: room.engine.text, room.ledger, room.answers, "model", default_max_tokens=8,
        max_waiting={REALTIME: 9, BATCH: 9}, admit=purse.budgets.check,
    )  # fmt: skip
    purse.budgets.limit(day=0)
    try:
        for source, path in (("console", REALTIME), ("job", BATCH)):
            with pytest.raises(BudgetError):
                service.start(service.prepare(TextRequest(text="Hello", source=source, path=path)))
        waited_for = Generation(TextRequest(text="Hello", source="console"))
        service.start_in_background(waited_for, lambda: waited_for.request)
        until(lambda: waited_for.ended, "the chat's answer has ended")
        assert isinstance(waited_for.error, BudgetError) and room.engine.asked == []
        assert not any(service.refusals()[0][1:]), "nobody took a place in the line"
    finally:
        service.close()


def test_refusals_and_used_budgets_are_metrics(purse: Purse) -> None:
    purse.limits["key"] = Limits(day=4 * DOLLAR, requests_per_minute=1)
    purse.budgets.limit(month=8 * DOLLAR)
    purse.spend(2 * DOLLAR, "key")
    assert dict(purse.budgets.used(["key"])) == {("key", "day"): 0.5, ("", "month"): 0.25}
    purse.budgets.take("key")
    with pytest.raises(RateError):
        purse.budgets.take("key")
    purse.spend(2 * DOLLAR, "key")
    with pytest.raises(BudgetError):
        purse.budgets.take("key")
    assert dict(purse.budgets.refusals()) == {("rate",): 1, ("budget_day",): 1}
