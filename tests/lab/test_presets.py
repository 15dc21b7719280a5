"""Presets are measured in the product as it serves, and whatever happens, the user's own switches come back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backend.engine.messages import Generate, SwitchesApplied
from backend.engine.protocol import Sink
from backend.engine.switches import Switches
from backend.errors import ConflictError
from backend.lab.estimate import Estimate, estimate
from backend.lab.preset_figures import FiguresStore, PresetFigures
from backend.lab.presets import REQUESTS, ROUNDS, PresetMeasuring
from backend.lab.standing import standing
from backend.metering.happenings import Happenings
from backend.metering.sums import Sums
from backend.models.text import TextModel
from backend.switchboard.borrowed_run import BorrowedRuns
from backend.switchboard.presets import PRESETS
from backend.switchboard.service import Switchboard
from backend.switchboard.worth_live import LiveWorth
from tests.conftest import until
from tests.generation.conftest import Room
from tests.generation.standin import StandInEngine


class Answering(StandInEngine):
    """Answers by itself, and is busy for a second with each answer; `gate` holds it up."""

    def __init__(self, text: TextModel) -> None:
        super().__init__(text)
        self.gate = threading.Event()
        self.gate.set()
        self.busy_seconds = 0.0
        self.served_under: list[Switches] = []
        self.applied = SwitchesApplied(self.switches, "bf16")  # type: ignore[assignment]

    def set_switches(self, switches: Switches) -> None:
        self.switches = switches
        self.applied = SwitchesApplied(switches, "bf16")  # type: ignore[assignment]

    def generate(self, request: Generate, sink: Sink) -> None:
        super().generate(request, sink)
        self.served_under.append(self.switches)

        def work() -> None:
            assert self.gate.wait(60)
            self.busy_seconds += 1.0
            if request.request_id in self._sinks:  # else it was cancelled
                self.answer(request.request_id)

        threading.Thread(target=work, daemon=True).start()

    def ping(self, timeout: float) -> Any:
        return type("Stats", (), {"busy_seconds": self.busy_seconds})


class Lab:
    def __init__(self, folder: Path, text: TextModel) -> None:
        self.room = Room(folder, text)
        self.engine = Answering(text)
        self.room.engine = self.engine
        self.room.service._engine = self.engine
        self.board = Switchboard(self.room.database, lambda: self.engine, Happenings(self.room.database))
        self.board.change({"max_batch": 7})
        self.runs = BorrowedRuns(lambda: self.engine, self.board)
        self.measuring = PresetMeasuring(lambda: self.engine, self.runs, self.room.service, self.room.database)

    def finished(self) -> None:
        until(lambda: not self.measuring.progress.running, "the measurement has ended")

    def close(self) -> None:
        self.engine.gate.set()
        self.runs.close()
        self.board.close()
        self.room.close()


@pytest.fixture
def lab(tmp_path: Path, text: TextModel) -> Iterator[Lab]:
    lab = Lab(tmp_path, text)
    yield lab
    lab.close()


@pytest.fixture(scope="session")
def text(chat_folder: Path) -> TextModel:
    return TextModel(chat_folder)


def test_a_preset_is_measured_under_its_own_switches_and_what_it_took_is_kept(lab: Lab) -> None:
    lab.measuring.start(["Baseline"])
    lab.finished()
    assert lab.measuring.progress.error == ""
    assert set(lab.engine.served_under) == {PRESETS["Baseline"]}
    assert len(lab.engine.served_under) == ROUNDS * REQUESTS + 1, "one warms up"
    figures = lab.measuring.figures()["Baseline"]
    assert figures.rounds == ROUNDS and figures.requests == REQUESTS
    prompts = sum(len(request.prompt) for request in lab.engine.asked[1 : REQUESTS + 1])
    assert figures.prefill_seconds_per_token.mean == pytest.approx(0.2 * REQUESTS / prompts, rel=0.01)
    again = FiguresStore(lab.room.database).all(lab.engine.info.fingerprint)
    assert again == {"Baseline": figures}, "the next start has it"
    assert FiguresStore(lab.room.database).all("another model") == {}
    assert lab.engine.switches.max_batch == 7 and not lab.board.borrowed


def test_no_cache_knows_the_questions_of_another_round(lab: Lab) -> None:
    lab.measuring.start(["Balanced"])
    lab.finished()
    rounds = [request.salt for request in lab.engine.asked]
    assert len(set(rounds)) == ROUNDS + 1


def test_a_cancelled_measurement_gives_the_switches_back_and_keeps_nothing_half(lab: Lab) -> None:
    lab.engine.gate.clear()
    lab.measuring.start(["Baseline"])
    until(lambda: lab.engine.asked, "it asks")
    with pytest.raises(ConflictError):
        lab.measuring.start(["Balanced"])
    lab.measuring.cancel()
    lab.finished()
    assert lab.measuring.progress.error == "It was cancelled." and lab.measuring.figures() == {}
    assert lab.engine.switches.max_batch == 7


def test_presets_are_not_measured_while_something_else_has_the_switches(lab: Lab) -> None:
    with lab.board.borrow(), pytest.raises(ConflictError):
        lab.measuring.start(["Baseline"])
    assert not lab.measuring.progress.running


def test_of_two_measurements_begun_in_one_instant_one_is_refused(lab: Lab) -> None:
    happenings = Happenings(lab.room.database)
    worth = LiveWorth(
        lambda: lab.engine, lab.board, lab.runs, lab.room.ledger, lab.room.database, happenings, lambda: []
    )
    starts = {"preset": lambda: lab.measuring.start(["Baseline"]), "switch": lambda: worth.start("prefix_cache")}
    lab.engine.gate.clear()
    for _ in range(20):
        together, refused = threading.Barrier(2), []

        def press(name: str, together: threading.Barrier = together, refused: list[str] = refused) -> None:
            together.wait()
            try:
                starts[name]()
            except ConflictError as error:
                refused.append(error.message)

        presses = [threading.Thread(target=press, args=(name,)) for name in starts]
        for one in presses:
            one.start()
        for one in presses:
            one.join()
        (why,) = refused
        going_on = "The preset Baseline" if lab.measuring.progress.running else "Prefix cache"
        assert why == f"{going_on} is being measured; wait for that, or cancel it."
        assert lab.measuring.progress.running != worth.course.running
        lab.measuring.cancel()
        worth.cancel()
        until(lambda: not (lab.measuring.progress.running or worth.course.running), "it has ended")
        assert lab.engine.switches.max_batch == 7 and not lab.board.borrowed


def test_who_changes_switches_meanwhile_ends_the_measurement(lab: Lab) -> None:
    lab.engine.gate.clear()
    lab.measuring.start(["Baseline", "Balanced"])
    until(lambda: lab.engine.asked, "it asks")
    lab.board.change({"max_batch": 9})
    lab.engine.gate.set()
    lab.finished()
    assert "somebody changed" in lab.measuring.progress.error
    assert lab.engine.switches == Switches(max_batch=9)


def test_a_failed_load_is_said_with_its_reason(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(switches: Switches) -> None:
        lab.engine.switches = switches
        lab.engine.applied = replace(lab.engine.applied, error="fp32 could not be loaded")  # type: ignore[type-var]

    monkeypatch.setattr(lab.engine, "set_switches", refuse)
    lab.measuring.start(["Baseline"])
    lab.finished()
    assert "fp32 could not be loaded" in lab.measuring.progress.error


def figures(**more: Any) -> PresetFigures:
    one = Estimate(0.01, 0.008, 0.012)
    return PresetFigures("Baseline", time.time(), "f", "cpu", "fp32", 4, 6, one, one, one, one, one, **more)


def test_baseline_pays_for_what_caches_gave_too() -> None:
    sums = Sums(
        prompt_tokens=600, cached_tokens=500, output_tokens=100, repeated_prompt_tokens=200, repeated_output_tokens=100,
        cost=1_000_000,  # a tenth of a cent
    )  # fmt: skip
    found = standing(sums, figures(), per_hour=3600.0)  # a dollar a second
    assert found is not None and found.tokens == 1000 and found.paid == pytest.approx(0.001)
    assert found.baseline == Estimate(pytest.approx(10.0), pytest.approx(8.0), pytest.approx(12.0))  # type: ignore[arg-type]
    assert found.ratio is not None and found.ratio.mean == pytest.approx(10_000)
    assert found.paid_per_million == pytest.approx(1.0)


def test_without_tokens_or_a_measurement_nothing_is_claimed() -> None:
    assert standing(Sums(), figures(), 0.1) is None
    found = standing(Sums(prompt_tokens=10), None, 0.1)
    assert found is not None and found.baseline is None and found.ratio is None


def test_an_interval_is_students() -> None:
    found = estimate([1.0, 2.0, 3.0, 4.0])  # deviation 1.29, of four: t = 3.182
    assert (found.mean, found.low, found.high) == (2.5, pytest.approx(0.446, abs=1e-3), pytest.approx(4.554, abs=1e-3))
    assert estimate([1.0]).high == float("inf"), "of one value nothing is known"
