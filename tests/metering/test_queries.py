"""Sums from minutes, hours, days and entries are the same sums; lists are found by an index."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event
from sqlmodel import delete, select

from backend.metering import queries as module
from backend.metering import rollup
from backend.metering.booking import Batch, idle_entry, store
from backend.metering.entry import SECOND, Entry
from backend.metering.histogram import ERROR
from backend.metering.queries import LedgerQueries
from backend.store.database import Database
from backend.store.tables.usage import EntryRow, Outcome, Population, RollUp, State, UsageKind
from pages.drawing.monitor_live import token_lines

NOW = 1_790_000_000
DAY = rollup.DAY


def some_entries(count: int, days: float) -> list[Entry]:
    rng = random.Random(1)
    out = []
    for number in range(count):
        end = int((NOW - rng.random() * days * DAY) * SECOND)
        kind = rng.choice([UsageKind.GENERATE, UsageKind.GENERATE, UsageKind.EMBED])
        latency = int(rng.lognormvariate(0, 1) * SECOND)
        out.append(Entry(
            f"{number:032x}", kind, rng.choice(["console", "api", "job", "lab"]), "realtime", "model",
            rng.choice([Outcome.STOP, Outcome.LENGTH, Outcome.ABORT, Outcome.ERROR, Outcome.CACHED]), end - latency,
            end, 1, rng.randrange(10**9), key_id=rng.choice(["", "a", "b"]), compute_ns=latency // 2,
            latency_ns=latency, ttft_ns=latency // 3, queue_ns=latency // 9, prompt_tokens=rng.randrange(999),
            output_tokens=7, avoided_prefix=rng.randrange(10**6), avoided_speculation=rng.randrange(-9, 10**6),
        ))  # fmt: skip
    return out


ENTRIES = some_entries(3000, 20)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('queries') / 'x.sqlite3'}")
    database.migrate()
    for start in range(0, len(ENTRIES), 500):
        with database.session() as session:
            store(session, Batch(tuple(ENTRIES[start : start + 500])))
    with database.session() as session:
        for second in range(0, 100, 2):
            end = (NOW - 100 + second) * SECOND
            store(session, Batch(idle=(idle_entry("s", 1, end - SECOND, end, SECOND, 10),)))
    yield database
    database.close()


@pytest.fixture(autouse=True)
def at_that_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "time", lambda: float(NOW))


@pytest.fixture
def queries(database: Database) -> LedgerQueries:
    return LedgerQueries(database, keep_days=90)


def those(since: float, until: float, populations: Any = tuple(Population)) -> list[Entry]:
    return [
        e for e in ENTRIES if since * SECOND <= e.finished_ns < until * SECOND and e.population in populations
    ]


RANGES = [(NOW - 45, NOW), (NOW - 3599.5, NOW - 7.25), (NOW - 30_000, NOW - 61), (NOW - 12.3 * DAY, NOW - 1.7 * DAY)]


@pytest.mark.parametrize(("since", "until"), RANGES)
def test_a_range_is_the_sum_of_its_entries(queries: LedgerQueries, since: float, until: float) -> None:
    wanted, sums = those(since, until), queries.sums(since, until)
    assert sums.requests == len(wanted) and sums.cost == sum(e.cost for e in wanted)
    assert sums.avoided == sum(e.avoided for e in wanted) and sums.compute_ns == sum(e.compute_ns for e in wanted)
    people = queries.sums(since, until, [Population.PEOPLE])
    assert people.requests == len(those(since, until, [Population.PEOPLE])) and people.idle_cost == 0
    assert sums.failed == sum(e.state is State.FAILED for e in wanted)


def test_everything_is_everything(queries: LedgerQueries) -> None:
    sums = queries.sums()
    assert (sums.requests, sums.cost) == (len(ENTRIES), sum(e.cost for e in ENTRIES))
    assert (sums.idle_ns, sums.idle_cost) == (50 * SECOND, 500)
    assert queries.sums(0) == sums == queries.sums(until=NOW + 5)


STEPS = [(5, 600), (60, 7000), (300, 9000), (3600, 2 * DAY), (7200, DAY), (DAY, 9 * DAY)]


@pytest.mark.parametrize(("step", "back"), STEPS)
def test_buckets_have_edges_that_never_move_and_are_sums_too(queries: LedgerQueries, step: int, back: int) -> None:
    buckets = queries.buckets(NOW - back, NOW, step)
    first, end = buckets[0].start, buckets[-1].start + step
    assert all(bucket.start % step == 0 for bucket in buckets) and first <= NOW - back and end >= NOW
    assert [bucket.start for bucket in buckets] == list(range(first, end, step))
    for bucket in buckets:
        wanted = those(bucket.start, bucket.start + step)
        assert (bucket.sums.requests, bucket.sums.cost) == (len(wanted), sum(e.cost for e in wanted))
    later = {bucket.start: bucket for bucket in queries.buckets(NOW - back + 3, NOW + 1, step)}
    assert all(later[bucket.start] == bucket for bucket in buckets[1:-1])


@pytest.mark.parametrize("step", [5, 60, 1800])
def test_steady_traffic_is_a_level_line_to_its_end(tmp_path: Path, step: int) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite3'}")
    database.migrate()
    steady = [
        replace(ENTRIES[0], request_id=str(back), kind=UsageKind.GENERATE, outcome=Outcome.STOP, output_tokens=10,
                finished_ns=(NOW - back) * SECOND) for back in range(2, 2 * 3600)
    ]  # fmt: skip
    with database.session() as session:
        store(session, Batch(tuple(steady)))
    buckets = LedgerQueries(database, 90).buckets(NOW - 3600, NOW, step)
    (_, _, out) = token_lines(buckets, [bucket.start for bucket in buckets], again=False)
    told = [rate for rate in out.values if rate is not None]
    assert told == pytest.approx([10.0] * len(told), rel=0.1)
    assert len(buckets) - len(told) == (0 if step == 1800 else 1), "what is open is left out while it tells nothing"
    database.close()


@pytest.mark.parametrize("measure", ["ttft", "latency", "queue"])
def test_percentiles_are_those_of_the_entries(queries: LedgerQueries, measure: str) -> None:
    since = NOW - 12.3 * DAY
    wanted = [
        getattr(e, f"{measure}_ns") / SECOND for e in those(since, NOW, [Population.API, Population.EMBEDDING])
        if e.state is State.OK and (measure == "latency" or e.kind is UsageKind.GENERATE)
    ]  # fmt: skip
    got = queries.latency(since, NOW, [Population.API, Population.EMBEDDING], measure)
    assert got is not None and got.count == len(wanted)
    assert got.p50 == pytest.approx(np.quantile(wanted, 0.5, method="lower"), rel=ERROR * 1.01)
    assert got.p99 == pytest.approx(np.quantile(wanted, 0.99, method="lower"), rel=ERROR * 1.01)
    assert queries.latency(NOW + 10, NOW + 20, measure=measure) is None


def test_percentiles_by_bucket_have_as_many_values(queries: LedgerQueries) -> None:
    for step, back in ((10, 3600), (60, 3600), (3600, 3 * DAY)):
        parts = queries.latency_buckets(NOW - back, NOW, step, [Population.PEOPLE])
        count = sum(p.count for _, p in parts if p is not None)
        ok = [e for e in those(parts[0][0], parts[-1][0] + step, [Population.PEOPLE]) if e.state is State.OK]
        assert count == len(ok)


def test_what_comes_late_counts_where_it_belongs(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite3'}")
    database.migrate()
    for entry in (ENTRIES[0], replace(ENTRIES[0], request_id="late"), ENTRIES[1]):
        with database.session() as session:
            store(session, Batch((entry,)))
    second = ENTRIES[0].finished_ns // SECOND
    assert LedgerQueries(database, 90).buckets(second, second + 1, 60)[0].sums.requests == 2
    database.close()


def test_sums_stay_when_entries_go_and_can_be_made_from_them(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite3'}")
    database.migrate()
    with database.session() as session:
        store(session, Batch(tuple(ENTRIES[:300])))
    queries = LedgerQueries(database, 90)
    before = (queries.sums(), queries.latency())
    with database.session() as session:
        session.exec(delete(RollUp))
        session.connection().exec_driver_sql("DELETE FROM ledger_key_day")
        assert rollup.catch_up(session) and not rollup.catch_up(session)
    assert (queries.sums(), queries.latency()) == before
    cut = (NOW - 5 * DAY) * SECOND
    with database.session() as session:
        gone = rollup.prune(session, entries_before=cut, now=NOW)
        left = session.exec(select(EntryRow)).all()
        minutes = session.exec(select(RollUp).where(RollUp.seconds == 60)).all()
    assert gone + len(left) == 300 and all(row.finished_ns >= cut for row in left) and gone
    assert all(row.start >= NOW - 14 * DAY for row in minutes)
    assert queries.sums() == before[0]
    database.close()


def test_a_list_of_requests_is_ordered_filtered_and_paged(queries: LedgerQueries) -> None:
    latest = sorted(ENTRIES, key=lambda e: -e.finished_ns)
    assert [r.entry for r in queries.requests(limit=50)] == latest[:50]
    assert [r.entry for r in queries.requests(limit=20, offset=40)] == latest[40:60]
    failed = [e for e in latest if e.state is State.FAILED and e.population is Population.API]
    got = queries.requests(NOW - 5 * DAY, NOW, [Population.API], states=[State.FAILED], limit=10)
    assert [r.entry for r in got] == [e for e in failed if e.finished_ns >= (NOW - 5 * DAY) * SECOND][:10]
    wanted = latest[123]
    assert [r.entry for r in queries.requests(search=wanted.request_id)] == [wanted]
    assert {r.entry.key_id for r in queries.requests(search="a", limit=5)} == {"a"}
    assert queries.request(wanted.request_id).entry == wanted and queries.request("none") is None  # type: ignore


def test_keys_have_their_cost_and_last_use(queries: LedgerQueries) -> None:
    uses = {use.key_id: use for use in queries.by_key()}
    for key in "ab":
        mine = [e for e in ENTRIES if e.key_id == key]
        assert uses[key].cost == sum(e.cost for e in mine) and uses[key].requests == len(mine)
        assert uses[key].last == pytest.approx(max(e.finished_ns for e in mine) / SECOND)
    assert set(uses) == {"a", "b"}


def test_no_list_and_no_sum_reads_the_whole_ledger(queries: LedgerQueries, database: Database) -> None:
    statements: list[tuple[str, Any]] = []

    def note(_c: Any, _k: Any, statement: str, parameters: Any, *_: Any) -> None:
        statements.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    queries.sums(NOW - 3 * DAY - 5, NOW)
    queries.buckets(NOW - 3600, NOW, 5)
    queries.latency(NOW - 3 * DAY - 5, NOW)
    queries.requests(limit=50)
    queries.requests(search="00ff", limit=50)
    queries.request("x")
    event.remove(database.engine, "before_cursor_execute", note)
    with database.engine.connect() as connection:
        for statement, parameters in statements:
            plan = str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all())
            walk = "SCAN ledger_entry USING INDEX ix_ledger_entry_finished" in plan and "TEMP B-TREE" not in plan
            assert walk or "SCAN ledger_" not in plan, (statement, plan)  # a walk ends after a page
