"""A switch is measured on the requests that come; whatever happens, everything is then as it was.

The ledger, its database and the switchboard are real; the engine is a stand-in that computes less while a switch is on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from backend.access.caller import LOCAL
from backend.api.app import create_api
from backend.engine.messages import SwitchesApplied, Usage
from backend.engine.protocol import EngineState, Phase
from backend.engine.switches import Switches
from backend.errors import ConflictError, InvalidInputError
from backend.metering.entry import Asked
from backend.metering.happenings import Happenings
from backend.metering.ledger import Ledger
from backend.metering.metrics import Metrics
from backend.metering.prices import Prices
from backend.settings import Settings
from backend.store.database import Database
from backend.store.tables.happenings import HappeningKind
from backend.switchboard.borrowed_run import BorrowedRun, BorrowedRuns
from backend.switchboard.service import Switchboard
from backend.switchboard.worth import Measure, Verdict
from backend.switchboard.worth_course import Timing
from backend.switchboard.worth_kept import WorthStore
from backend.switchboard.worth_live import LiveWorth
from backend.switchboard.worth_traffic import Waiting
from tests.conftest import until
from tests.engine.fake_engine import INFO

QUICK = Timing(tick=0.01, shortest=0.05, longest=0.05, wash_out=0.03, drain=5, calm=0.05, away=0.3, window=5)


class Engine:
    """Takes switches at once; `refuses` takes none."""

    def __init__(self) -> None:
        self.info, self.state, self.stats = INFO, EngineState(Phase.READY), None
        self.switches = Switches()
        self.applied = SwitchesApplied(self.switches, "bf16")
        self.seen: list[Switches] = []
        self.refuses = ""

    @property
    def in_force(self) -> Switches:
        return self.applied.switches

    def known(self) -> Any:
        return self.info

    def set_switches(self, switches: Switches) -> None:
        self.seen.append(switches)
        if self.refuses:
            self.applied = replace(self.applied, error=self.refuses)
            return
        self.switches = switches
        self.applied = SwitchesApplied(switches, "bf16")


class Shop:
    """A measurement, and customers who come as fast as the ledger books them."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(f"sqlite:///{folder / 'shop.sqlite3'}")
        self.database.migrate()
        self.engine = Engine()
        engine: Any = self.engine
        self.happenings = Happenings(self.database)
        self.board = Switchboard(self.database, lambda: engine, self.happenings)
        self.board.change({"max_batch": 7})
        prices = Prices(Settings(data_dir=folder, price_per_hour=3600.0), self.database)
        self.ledger = Ledger(self.database, prices, Metrics(engine))
        self.waiting: list[Waiting] = []
        self.runs = BorrowedRuns(lambda: engine, self.board)
        self.worth = LiveWorth(
            lambda: engine, self.board, self.runs, self.ledger, self.database, self.happenings, lambda: self.waiting,
            QUICK,
        )  # fmt: skip
        self.saves, self.ttft, self.source = 0.5, 0.01, "api"
        self.served: list[Switches] = []
        self.closed = threading.Event()
        self.customers = threading.Thread(target=self._come, daemon=True)

    def opened(self) -> Shop:
        self.customers.start()
        return self

    def _come(self) -> None:
        number = 0
        while not self.closed.wait(0.004):
            number += 1
            switches = self.engine.in_force
            self.served.append(switches)
            seconds = 0.1 * (1 - self.saves * switches.prefix_cache) * (1 + 0.02 * (number % 3))
            now = time.monotonic()
            usage = Usage(
                prompt_tokens=100, cached_tokens=0, output_tokens=8, prefill_seconds=seconds, decode_seconds=0.02,
                arrival=now - self.ttft, scheduled=now, first_token=now, finished=now, variant="bf16",
            )  # fmt: skip
            asked = Asked(f"r{number}", self.source, "realtime", "model", switches=switches)
            self.ledger.record(asked, usage, outcome="stop")
            if number % 5 == 0:
                self.ledger.tick()

    def ended(self) -> None:
        until(lambda: not self.worth.course.running, "the measurement has ended")

    def close(self) -> None:
        self.closed.set()
        self.runs.close()
        self.board.close()
        self.ledger.close()
        self.database.close()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    yield shop
    shop.close()


def as_before(shop: Shop) -> bool:
    return shop.engine.switches == Switches(max_batch=7) and not shop.board.borrowed


def test_a_cache_that_halves_the_work_is_worth_it_and_everything_is_then_as_it_was(shop: Shop) -> None:
    shop.opened().worth.start("prefix_cache", minutes=1, seed=4)
    shop.ended()
    assert shop.worth.course.error == ""
    worth = shop.worth.results()["prefix_cache"]
    assert worth.verdict is Verdict.WORTH_IT
    cost = worth.effects[Measure.COST]
    assert cost.change == pytest.approx(-51 / 122, abs=0.02) and cost.high is not None and cost.high < 0
    assert cost.without == pytest.approx(0.122 / 108, rel=0.05)
    assert worth.requests_with and worth.requests_without and worth.noise is not None and worth.more_minutes is None
    assert "begins" in worth.note, "it says what the cache keeps between blocks"
    assert as_before(shop)
    assert {one.max_batch for one in shop.served} == {7}, "only the one switch moves"
    next_start = WorthStore(shop.database)
    assert next_start.all(INFO.fingerprint, INFO.device) == {"prefix_cache": worth}
    assert next_start.all("another model", INFO.device) == {}
    shop.database.writer.flush()
    said = [one.text for one in shop.happenings.between(0, 1e12, (HappeningKind.MEASURED,))]
    assert said == ["Prefix cache: worth it", "Prefix cache goes on and off to be measured."]


def test_when_the_time_is_over_what_is_not_resolved_is_said_to_be_with_how_much_more_it_takes(shop: Shop) -> None:
    shop.source = "console"
    shop.opened().worth.start("prefix_cache", minutes=0.7 / 60)
    shop.ended()
    worth = shop.worth.results()["prefix_cache"]
    assert worth.verdict is Verdict.NOT_RESOLVED and as_before(shop)
    assert worth.more_minutes is None or worth.more_minutes > 0


def test_without_traffic_nothing_is_claimed_and_the_labs_requests_are_no_traffic(shop: Shop) -> None:
    shop.source = "lab"
    shop.opened().worth.start("prefix_cache", minutes=0.5 / 60)
    shop.ended()
    worth = shop.worth.results()["prefix_cache"]
    assert (worth.verdict, worth.requests_with, worth.effects) == (Verdict.NOT_RESOLVED, 0, {})


def test_cancelling_gives_the_switches_back_and_keeps_nothing_half(shop: Shop) -> None:
    shop.opened().worth.start("prefix_cache", minutes=5)
    until(lambda: shop.worth.course.requests_without, "it is without")
    with pytest.raises(ConflictError):
        shop.worth.start("answer_cache")
    shop.worth.cancel()
    shop.ended()
    assert shop.worth.course.error == "It was cancelled." and shop.worth.results() == {} and as_before(shop)


def test_who_changes_a_switch_meanwhile_ends_it_and_keeps_what_was_changed(shop: Shop) -> None:
    shop.worth.start("prefix_cache", minutes=5)  # nobody comes
    until(lambda: "washing" in shop.worth.course.doing or "with" in shop.worth.course.doing, "it has begun")
    shop.board.change({"max_batch": 9})
    shop.ended()
    assert "somebody changed" in shop.worth.course.error
    assert shop.engine.switches == Switches(max_batch=9)


def test_it_gives_way_while_people_wait_too_long_and_goes_on_afterwards(shop: Shop) -> None:
    shop.worth.start("prefix_cache", minutes=5, ttft_limit=0.5)
    shop.waiting = [Waiting(time.time() - 2, True)]
    until(lambda: "giving way" in shop.worth.course.doing, "it gives way")
    assert shop.engine.switches == Switches(max_batch=7)
    shop.waiting = []
    until(lambda: "giving way" not in shop.worth.course.doing, "it goes on")


def test_an_engine_that_is_away_is_waited_for_and_one_that_stays_away_ends_it(shop: Shop) -> None:
    shop.worth.start("prefix_cache", minutes=5)
    shop.engine.state = EngineState(Phase.RESTARTING, restarts=1)
    shop.ended()
    assert "away for too long" in shop.worth.course.error and as_before(shop)
    with pytest.raises(ConflictError):
        shop.worth.start("prefix_cache")


def test_a_switch_that_the_engine_refuses_is_said_with_its_reason(shop: Shop) -> None:
    shop.engine.refuses = "not on this machine"
    shop.worth.start("prefix_cache", minutes=5)
    shop.ended()
    assert shop.worth.course.error == "not on this machine"


def test_who_is_still_answered_when_a_block_ends_is_waited_for(shop: Shop) -> None:
    shop.worth.start("prefix_cache", minutes=0.5)
    until(lambda: shop.worth.course.doing.endswith("with it"), "it counts")
    shop.waiting = [Waiting(time.time(), False)]
    until(lambda: "last answers" in shop.worth.course.doing, "it waits for who was counted")


@pytest.mark.parametrize("name", ["quantization", "max_batch", "kv_cache", "nothing"])
def test_what_does_not_go_on_and_off_at_once_is_refused(shop: Shop, name: str) -> None:
    with pytest.raises(InvalidInputError, match=name):
        shop.worth.start(name)
    with pytest.raises(InvalidInputError):
        shop.worth.start("prefix_cache", minutes=0)


def test_the_api_starts_follows_and_cancels_it(shop: Shop) -> None:
    shop.opened()
    runtime: Any = SimpleNamespace(worth=shop.worth, settings=Settings())
    api = create_api(lambda: runtime, Settings())

    async def as_local(scope: Any, receive: Any, send: Any) -> None:
        scope.setdefault("state", {})["caller"] = LOCAL
        await api(scope, receive, send)

    with TestClient(as_local, raise_server_exceptions=False) as client:
        assert client.post("/api/switches/quantization/measure", json={}).status_code == 400
        assert client.post("/api/switches/prefix_cache/measure", json={"minutes": 0}).status_code == 400
        begun = client.post("/api/switches/prefix_cache/measure", json={"minutes": 1, "seed": 4})
        assert begun.status_code == 202 and begun.json()["course"]["running"]
        assert client.post("/api/switches/prefix_cache/measure", json={}).status_code == 409
        shop.ended()
        known = client.get("/api/switches/worth").json()
        assert known["results"]["prefix_cache"]["verdict"] == "worth it" and known["course"]["doing"] == ""
        client.post("/api/switches/answer_cache/measure", json={})
        assert client.post("/api/switches/worth/cancel").status_code == 202
        shop.ended()
        assert client.get("/api/switches/worth").json()["course"]["error"] == "It was cancelled."

        def measure(run: BorrowedRun) -> None:
            with run.borrow():
                run.pause(60)

        run = shop.runs.begin("The preset Baseline", measure, begun=lambda: None, ended=lambda _: None)
        refused = client.post("/api/switches/prefix_cache/measure", json={})
        assert refused.status_code == 409
        assert refused.json()["error"]["message"].startswith("The preset Baseline is being measured")
        run.cancel()
