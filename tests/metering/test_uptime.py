"""Sum of costs + idle = uptime × price, to the nano-dollar, whatever happens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlmodel import Session, select

from backend.engine.messages import Usage
from backend.metering import rollup
from backend.metering.entry import DOLLAR, HOUR, SECOND, Asked, Entry, price_of
from backend.metering.ledger import Ledger
from backend.metering.metrics import Metrics
from backend.metering.prices import OWN, Prices
from backend.metering.uptime import Uptime
from backend.settings import Settings
from backend.store.database import Database
from backend.store.tables.usage import EntryRow, MachineSpan, Population, PriceVersion
from tests.metering.clock import FakeClock


class Engine:
    """What metrics ask of an engine."""

    stats = None


class Server:
    """A ledger that can be killed, on a fake clock, with an engine that is busy with one thing at a time."""

    def __init__(self, database: Database, clock: FakeClock, rng: random.Random) -> None:
        self.database, self.clock, self.rng = database, clock, rng
        self.told: list[str] = []
        self.prices = Prices(Settings(data_dir=Path("/nowhere")), database)
        self.ledger = Ledger(database, self.prices, Metrics(Engine()), clock=clock, tell=self.told.append)  # type: ignore
        self.ledger.open(thread=False)
        self.busy, self.running, self.number = 0.0, 0.0, 0  # of the engine; of the request that is with it
        self.booked = 0

    def second(self) -> None:
        """A second of whatever comes."""
        part = self.rng.choice([0.0, 0.3, 1.0]) * self.rng.random()
        self.clock.sleep(1.0)
        self.busy += part
        self.running += part
        if self.rng.random() < 0.7:
            self.ledger.heard(stats(self.busy))
        if self.rng.random() < 0.5:
            self.end_a_request()
        if self.rng.random() < 0.1:
            self.prices.choose(OWN, round(self.rng.choice([0.0, 0.1, 3.37, 98.32]) * self.rng.random(), 7))
        if self.rng.random() < 0.05:
            self.busy = self.running = 0.0  # the engine died, and its request with it
        if self.rng.random() < 0.6:
            self.ledger.tick()

    def end_a_request(self) -> None:
        self.number += 1
        asked = Asked(f"r{self.number}", self.rng.choice(["console", "api", "job"]), "realtime", "model")
        if self.rng.random() < 0.2:
            account = self.ledger.record_embedding(
                asked, computed_tokens=9, reused_tokens=1, seconds=self.running, latency=self.running
            )
        else:
            usage = Usage(50, 0, 4, self.running / 3, self.running / 3 * 2, 1.0, 1.1, 1.2, 2.0, "bf16")
            account = self.ledger.record(asked, usage, outcome=self.rng.choice(["stop", "length", "abort"]))
        self.booked += round(account.cost * DOLLAR)
        self.running = 0.0


def stats(busy: float):  # type: ignore[no-untyped-def]
    class Stats:
        busy_seconds = busy

    return Stats()


@pytest.fixture
def database(tmp_path: Path):  # type: ignore[no-untyped-def]
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite3'}")
    database.migrate()
    yield database
    database.close()


@pytest.mark.parametrize("seed", range(2))
def test_costs_and_idle_time_are_uptime_by_price_over_restarts(database: Database, seed: int) -> None:
    rng, clock, uptime = random.Random(seed), FakeClock(), 0
    for _ in range(6):
        server, began = Server(database, clock, rng), clock.monotonic_ns()
        for _ in range(rng.randrange(1, 80)):
            server.second()
            if rng.random() < 0.05:
                check(server, still_open=True)
        kept = clock.monotonic_ns()
        if rng.random() < 0.5:
            assert server.ledger.flush()  # and killed
            clock.sleep(0.9)
            server.end_a_request()
        else:
            server.ledger.close()
            assert database.writer.flush()
        uptime += kept - began
        clock.sleep(rng.randrange(100_000))  # while it is down
    last = Server(database, clock, rng)
    last.ledger.close()
    assert database.writer.flush()
    check(last, still_open=False)
    with database.session() as session:
        assert sum(session.exec(select(MachineSpan.uptime_ns)).all()) == uptime
        assert all(session.exec(select(MachineSpan.closed)).all())
        minutes = session.exec(select(EntryRow).where(EntryRow.population == Population.IDLE)).all()
    assert len({row.request_id for row in minutes}) == len(minutes), "idle time has one entry a minute and span"


def check(server: Server, *, still_open: bool) -> None:
    assert server.ledger.flush()
    with server.database.session() as session:
        rows = session.exec(select(EntryRow)).all()
        spans = session.exec(select(MachineSpan, PriceVersion).join(
            PriceVersion, MachineSpan.price_id == PriceVersion.id  # type: ignore[arg-type]
        )).all()  # fmt: skip
    due = sum(span.uptime_ns * price.per_hour // HOUR for span, price in spans)
    balance, sums = server.ledger.queries.balance(), server.ledger.queries.sums()
    assert balance.due == due and balance.booked == sum(row.cost for row in rows) == sums.cost + sums.idle_cost
    assert balance.booked_ns == sum(row.compute_ns for row in rows) == sums.compute_ns + sums.idle_ns
    if still_open:
        assert all(row.compute_ns >= 0 and row.cost >= 0 for row in rows), "less than nothing was idle"
    else:
        assert (balance.due, balance.uptime_ns) == (balance.booked, balance.booked_ns)


def test_work_that_has_not_ended_is_not_idle() -> None:
    uptime = Uptime(1, 3600 * DOLLAR, 0, 0)
    for second in range(1, 11):
        uptime.advance(second * SECOND)
        uptime.computed(second * 0.75)
        assert uptime.take_idle() == (SECOND // 4, DOLLAR // 4)
    uptime.book(round(7.5 * SECOND), round(7.5 * DOLLAR))
    uptime.advance(11 * SECOND)
    assert uptime.take_idle() == (SECOND, DOLLAR) and uptime.left == (0, 0)


def test_what_died_with_an_engine_is_idle_in_the_end() -> None:
    uptime = Uptime(1, 3600 * DOLLAR, 0, 0)
    uptime.advance(10 * SECOND)
    uptime.computed(8.0)
    assert uptime.take_idle()[0] == 2 * SECOND
    uptime.advance(11 * SECOND)
    uptime.computed(0.5)  # another engine
    assert uptime.take_idle()[0] == round(8.5 * SECOND)


def test_a_price_is_rounded_once_however_often_it_is_looked_at() -> None:
    uptime, idle = Uptime(1, 1, 0, 0), 0
    for second in range(1, 7201):
        uptime.advance(second * SECOND)
        idle += uptime.take_idle()[1]
    assert idle == 2 == price_of(2 * HOUR, 1)


def test_a_first_start_that_was_killed_while_it_summed_old_entries_goes_on(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Server(database, FakeClock(), random.Random(1))
    for _ in range(100):
        first.second()
    first.ledger.close()
    assert database.writer.flush()
    queries = first.ledger.queries
    whole = queries.sums(), queries.by_key(), queries.latency()
    with database.session() as session:  # as an upgrade leaves it: entries, and no sums
        for table in ("ledger_rollup", "ledger_key_day"):
            session.connection().exec_driver_sql(f"DELETE FROM {table}")
    monkeypatch.setattr(rollup, "TOGETHER", 7)
    add, counted = rollup.add, 0

    def killed(session: Session, entries: Sequence[Entry]) -> None:
        nonlocal counted
        counted += 1
        add(session, entries)
        if counted == 3:
            raise SystemExit

    monkeypatch.setattr(rollup, "add", killed)
    with pytest.raises(SystemExit):
        Server(database, FakeClock(), random.Random(1))
    assert queries.sums() != whole[0], "some are summed, in commits of their own"
    again = Server(database, FakeClock(), random.Random(1))
    assert (queries.sums(), queries.by_key(), queries.latency()) == whole
    again.second()
    again.ledger.close()
    assert database.writer.flush()
    check(again, still_open=False)


HUGE = Usage(1 << 80, 0, 4, 0.1, 0.2, 1.0, 1.1, 1.2, 2.0, "bf16")
WELL = Usage(50, 0, 4, 0.1, 0.2, 1.0, 1.1, 1.2, 2.0, "bf16")


@pytest.mark.parametrize("neighbours", [0, 3])
def test_what_cannot_be_stored_is_paid_for_all_the_same(database: Database, neighbours: int) -> None:
    server = Server(database, FakeClock(), random.Random(0))
    server.prices.choose(OWN, 3.6)  # the span of before ends with this batch
    server.clock.sleep(5.0)
    for number in range(neighbours):
        server.ledger.record(Asked(f"well {number}", "api", "realtime", "model"), WELL, outcome="stop")
    server.ledger.record(Asked("huge", "api", "realtime", "model", "key"), HUGE, outcome="stop")
    check(server, still_open=True)
    huge = server.ledger.queries.request("huge")
    assert huge is not None and huge.entry.compute_ns == 300_000_000 and huge.entry.cost == 300_000
    assert "could not be stored" in huge.entry.error and server.ledger.unstored == 1
    assert [use.cost for use in server.ledger.queries.by_key()] == [300_000], "its key pays for it"
    assert server.told == ["An entry of the ledger could not be stored (A number is larger than can be kept): "
                           "only machine time and cost are kept."]  # fmt: skip
    server.ledger.record(Asked("no text", "\ud800", "realtime", "model"), WELL, outcome="stop")
    check(server, still_open=True)
    assert server.ledger.queries.request("no text") is None and server.ledger.unstored == 2
    assert "half a character" in server.told[1] and "counts as idle" in server.told[1]
    server.ledger.close()
    assert database.writer.flush()
    check(server, still_open=False)


def test_a_batch_that_is_given_up_leaves_its_time_idle(database: Database) -> None:
    server = Server(database, FakeClock(), random.Random(0))
    server.prices.choose(OWN, 3.6)
    server.clock.sleep(5.0)
    refused = "CREATE TRIGGER refuse BEFORE UPDATE ON machine_span BEGIN SELECT RAISE(ABORT, 'refused'); END"
    assert server.ledger.flush()
    with database.session() as session:
        session.connection().exec_driver_sql(refused)
    server.ledger.record(Asked("lost", "api", "realtime", "model"), WELL, outcome="stop")
    server.prices.choose(OWN, 7.2)
    server.clock.sleep(1.0)
    assert server.ledger.flush() and server.ledger.unstored == 1
    with database.session() as session:
        session.connection().exec_driver_sql("DROP TRIGGER refuse")
    server.clock.sleep(1.0)
    check(server, still_open=True)
    server.ledger.close()
    assert database.writer.flush()
    check(server, still_open=False)


def test_a_kill_loses_a_second_at_most_and_says_so(database: Database) -> None:
    clock, rng = FakeClock(), random.Random(0)
    killed = Server(database, clock, rng)
    assert killed.ledger.lost is None and killed.ledger.lost_seconds == 0
    killed.second()
    assert killed.ledger.flush()
    heard = clock.time_ns()
    clock.sleep(0.8)
    killed.end_a_request()
    later = Server(database, clock, rng)
    assert later.ledger.lost is not None and later.ledger.lost.heartbeat == pytest.approx(heard / SECOND)
    assert later.ledger.lost_seconds == 1.0
    later.ledger.close()
    assert Server(database, clock, rng).ledger.lost is None
