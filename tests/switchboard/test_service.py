"""What is stored is what is in force; a switch acts whether or not the database can be written.

SQLite and the client are real; the engine's process is the fake of `tests/engine/fake_engine.py`.
"""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from backend.access.caller import LOCAL
from backend.api.app import create_api
from backend.engine.client import LocalEngine
from backend.engine.config import EngineConfig
from backend.engine.switches import Switches
from backend.errors import ModelFailedError
from backend.knowledge.reader import ReaderPhase, ReaderState
from backend.metering.happenings import Happenings
from backend.settings import Settings
from backend.store.database import Database
from backend.switchboard.service import Switchboard
from tests.conftest import ROOT, until
from tests.engine.fake_engine import SPIN
from tests.engine.test_client import ask

FAKE = (sys.executable, str(ROOT / "tests" / "engine" / "fake_engine.py"))

IDLE = ReaderState(ReaderPhase.IDLE)


class Desk:
    """A switchboard and its engine, as the runtime builds them; opening another is the next start."""

    def __init__(self, folder: Path, model: str) -> None:
        self.file = folder / "tenfold.sqlite3"
        self.database = Database(f"sqlite:///{self.file}")
        self.database.migrate()
        self.happenings = Happenings(self.database)
        self.switchboard = Switchboard(self.database, lambda: self.engine, self.happenings)
        config = EngineConfig(model=model, cache_dir=folder, switches=self.switchboard.stored, threads=1)
        self.engine = LocalEngine(
            config, on_applied=self.switchboard.keep, on_said=self.happenings.engine_said, command=FAKE
        )
        self.engine.start()

    def ready(self) -> Desk:
        assert self.engine.wait_ready(60)
        return self

    def close(self) -> None:
        self.engine.stop(2)
        self.switchboard.close()
        self.database.close()

    def api(self, text: Callable[[], Any] = lambda: None) -> TestClient:
        runtime = SimpleNamespace(
            engine=self.engine, switchboard=self.switchboard, texts=SimpleNamespace(text=text),
            settings=SimpleNamespace(served_model="fake"), reader=SimpleNamespace(state=IDLE),
            database=self.database, ledger=SimpleNamespace(lost_seconds=0.0, unstored=0),
        )  # fmt: skip
        api = create_api(lambda: runtime, Settings())  # type: ignore[arg-type,return-value]

        async def as_local(scope: Any, receive: Any, send: Any) -> None:
            scope.setdefault("state", {})["caller"] = LOCAL  # as the gate does
            await api(scope, receive, send)

        return TestClient(as_local, raise_server_exceptions=False)


Open = Callable[..., Desk]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    desks: list[Desk] = []

    def make(model: str = "fake") -> Desk:
        desks.append(Desk(tmp_path, model))
        return desks[-1]

    yield make
    for desk in desks:
        desk.close()


def test_what_was_in_force_is_what_the_next_start_begins_with(opened: Open) -> None:
    desk = opened().ready()
    desk.switchboard.change({"max_batch": 7})
    assert desk.switchboard.settled(30)
    desk.close()
    assert opened().ready().engine.in_force.max_batch == 7


@pytest.mark.parametrize("model", ["no-int8", "int8-kills"])
def test_a_switch_that_failed_is_not_stored(opened: Open, model: str) -> None:
    desk = opened(model).ready()
    desk.switchboard.change({"max_batch": 7})
    desk.switchboard.change({"quantization": "int8"})
    until(lambda: desk.engine.applied is not None and desk.engine.applied.error, "the failure is told")
    until(lambda: desk.switchboard.stored == Switches(max_batch=7), "what works is stored")
    desk.close()
    again = opened(model).ready()
    assert again.engine.state.restarts == 0
    assert again.engine.in_force == Switches(max_batch=7)


def test_two_changes_at_once_both_count(opened: Open) -> None:
    desk = opened().ready()
    names = ["prefix_cache", "answer_cache", "embedding_cache", "dual_path", "chunked_prefill", "in_flight_batching"]
    for value in (False, True, False):
        together = threading.Barrier(len(names))

        def change(name: str, value: bool = value, together: threading.Barrier = together) -> None:
            together.wait()
            desk.switchboard.change({name: value})

        threads = [threading.Thread(target=change, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [getattr(desk.engine.switches, name) for name in names] == [value] * len(names)


def test_a_database_that_cannot_be_written_holds_up_no_switch(opened: Open) -> None:
    desk = opened().ready()
    assert desk.switchboard.settled(30)
    with sqlite3.connect(desk.file, isolation_level=None) as other, desk.api() as api:
        other.execute("BEGIN IMMEDIATE")
        answer = api.patch("/api/switches", json={"max_batch": 9})
        assert answer.status_code == 200, answer.text
        assert answer.json()["switches"]["max_batch"] == 9 and answer.json()["stored"] is False
        assert desk.engine.in_force.max_batch == 9
        other.execute("ROLLBACK")
    until(lambda: desk.switchboard.stored.max_batch == 9, "it is stored once it can be")


def test_storing_is_tried_again_after_an_error(opened: Open) -> None:
    desk = opened().ready()
    with sqlite3.connect(desk.file) as other:
        other.execute("ALTER TABLE setting RENAME TO elsewhere")
    desk.switchboard.change({"max_batch": 9})
    assert not desk.switchboard.settled(1)
    with sqlite3.connect(desk.file) as other:
        other.execute("ALTER TABLE elsewhere RENAME TO setting")
    until(lambda: desk.switchboard.stored.max_batch == 9, "it is stored once it can be")


def test_a_change_over_the_api_says_that_it_is_stored(opened: Open) -> None:
    with opened().ready().api() as api:
        answer = api.patch("/api/switches", json={"max_batch": 11})
        assert answer.json()["stored"] is True
        assert api.patch("/api/switches", json={"max_batch": 0}).status_code == 400


# ---- health ----------------------------------------------------------------------------------------------------------


def test_a_long_turn_is_no_illness(opened: Open) -> None:
    desk = opened().ready()
    ask(desk.engine, "long", SPIN, 4, tokens=1)
    with desk.api() as api:
        answer = api.get("/healthz")
    assert answer.status_code == 200 and answer.json()["status"] == "ok"
    assert answer.json()["last_turn_seconds"] >= 0


def test_a_model_that_cannot_be_loaded_is_not_worth_a_retry(opened: Open) -> None:
    desk = opened("missing")
    until(lambda: desk.engine.state.phase == "failed", "loading fails")

    def text() -> Any:
        return desk.engine.known()

    with desk.api(text) as api:
        health = api.get("/healthz")
        assert health.status_code == 503 and health.json()["status"] == "failed"
        assert "no model here" in health.json()["detail"]
        assert health.headers["x-should-retry"] == "false" and "retry-after" not in health.headers


def test_a_model_without_a_tokenizer_is_not_healthy(opened: Open) -> None:
    def text() -> Any:
        raise ModelFailedError("There is no tokenizer.json.")

    with opened().ready().api(text) as api:
        health = api.get("/healthz")
    assert health.status_code == 503 and health.json()["status"] == "failed"
    assert health.headers["x-should-retry"] == "false"


def test_an_engine_that_is_starting_is_worth_a_retry(opened: Open) -> None:
    with opened("sleep").api() as api:
        health = api.get("/healthz")
    assert health.status_code == 503 and health.json()["status"] == "starting"
    assert health.headers["retry-after"] == "2"
