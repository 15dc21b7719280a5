"""Switches that a measurement borrows are nobody's choice: they are not stored, and those of before come back."""

from __future__ import annotations

import pytest

from backend.engine.switches import Switches
from backend.store.tables.happenings import HappeningKind
from backend.switchboard.service import BorrowOverError
from tests.conftest import until
from tests.switchboard.test_service import Open, opened  # noqa: F401


def test_borrowed_switches_are_in_force_but_not_stored_and_those_of_before_come_back(opened: Open) -> None:  # noqa: F811
    desk = opened().ready()
    desk.switchboard.change({"max_batch": 7})
    assert desk.switchboard.settled(30)
    with desk.switchboard.borrow() as lend:
        lend(Switches(max_batch=1))
        until(lambda: desk.engine.in_force.max_batch == 1, "the borrowed ones act")
        assert desk.switchboard.own.max_batch == 7
        desk.database.writer.flush()
        assert desk.switchboard.stored.max_batch == 7
    until(lambda: desk.engine.in_force.max_batch == 7, "those of before act")
    assert desk.switchboard.settled(30) and desk.switchboard.stored.max_batch == 7


def test_a_measurement_that_was_killed_leaves_the_own_switches_for_the_next_start(opened: Open) -> None:  # noqa: F811
    desk = opened().ready()
    desk.switchboard.change({"max_batch": 7})
    assert desk.switchboard.settled(30)
    borrowing = desk.switchboard.borrow()
    borrowing.__enter__()(Switches(max_batch=1))
    until(lambda: desk.engine.in_force.max_batch == 1, "the borrowed ones act")
    assert opened().ready().engine.in_force.max_batch == 7


def test_who_changes_switches_meanwhile_keeps_what_was_changed(opened: Open) -> None:  # noqa: F811
    desk = opened().ready()
    desk.switchboard.change({"max_batch": 7})
    assert desk.switchboard.settled(30)
    with desk.switchboard.borrow() as lend:
        lend(Switches(max_batch=1, prefix_cache=False))
        desk.switchboard.change({"batch_window_ms": 3})
        with pytest.raises(BorrowOverError):
            lend(Switches(max_batch=1))
    until(lambda: desk.switchboard.stored == Switches(max_batch=7, batch_window_ms=3), "it is stored")
    assert desk.engine.in_force == Switches(max_batch=7, batch_window_ms=3)


def test_a_change_is_on_record_with_who_when_from_and_to(opened: Open) -> None:  # noqa: F811
    desk = opened().ready()
    desk.switchboard.change({"max_batch": 7, "prefix_cache": False}, who="key-1", why="a try")
    desk.switchboard.change({"max_batch": 7}, who="key-1")  # changes nothing
    desk.switchboard.change(Switches().as_dict())
    desk.database.writer.flush()
    latest, first = desk.happenings.between(0, 1e12, (HappeningKind.SWITCHES,))
    assert latest.text == "Preset Balanced"
    assert first.who == "key-1" and first.details["why"] == "a try"
    assert first.details["changes"] == {"max_batch": [64, 7], "prefix_cache": [True, False]}
    assert first.text == "Largest batch: 64 → 7; Prefix cache: on → off"
    assert 0 < first.time <= latest.time


def test_a_crash_and_weights_that_failed_are_on_record(opened: Open) -> None:  # noqa: F811
    desk = opened("no-int8").ready()
    desk.switchboard.change({"quantization": "int8"})
    until(lambda: desk.engine.applied is not None and desk.engine.applied.error, "the failure is told")
    desk.engine.restart()
    until(lambda: desk.engine.state.restarts == 1 and desk.engine.state.phase == "ready", "the engine is back")
    desk.database.writer.flush()
    kinds = [happening.kind for happening in desk.happenings.between(0, 1e12)]
    assert kinds.count(HappeningKind.REFUSED) == 1
    assert kinds[0] == HappeningKind.READY
