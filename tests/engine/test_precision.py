"""Auto weights: the fastest whose loss passes the gate; measured once, remembered, and moved to while requests run."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.engine.about import PrecisionReport
from backend.engine.kernels.build import load_cpu_kernels
from backend.engine.messages import InfoChanged, SwitchesApplied
from backend.engine.model.decoder import Decoder
from backend.engine.quantization import loss as loss_module
from backend.engine.quantization.kernel import is_fast
from backend.engine.quantization.loss import Yardstick
from backend.engine.quantization.speed import Speed, compare
from backend.engine.serving import precision as precision_module
from backend.engine.switches import Switches
from backend.models.random_model import write
from tests.conftest import until
from tests.engine.conftest import Harness

CPU = torch.device("cpu")
AUTO = Switches(quantization="auto")


@pytest.fixture(autouse=True)
def _own_products(cache_dir: Path) -> None:
    if not is_fast(load_cpu_kernels(cache_dir)):
        pytest.skip("16 bits are held as fp32 on this processor, and these tests name them bf16")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, chat_folder: Path) -> Path:
    folder = write("tiny", tmp_path_factory.mktemp("tiny") / "tiny")
    (folder / "tokenizer.json").write_bytes((chat_folder / "tokenizer.json").read_bytes())
    return folder


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Little to read: what is measured does not matter where it is what follows that is tested."""
    text = tmp_path / "text"
    text.write_text(loss_module.TEXT.read_text()[:600])
    for name, value in {"TEXT": text, "ANSWERS": 2, "ANSWER_TOKENS": 4}.items():
        monkeypatch.setattr(loss_module, name, value)


@pytest.fixture
def speeds(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """How fast each variant shall seem: a real measurement of so small a model says nothing."""
    seem = {"bf16": 1.0, "int8": 2.0, "mixed": 1.5}

    def compared(decoders: list[Decoder], pause: Callable[[], None]) -> list[Speed]:
        compare(decoders, pause)
        return [Speed(read=1 / seem[d.variant], step=1 / seem[d.variant]) for d in decoders]

    monkeypatch.setattr(precision_module, "compare", compared)
    return seem


@pytest.fixture
def start(tiny: Path, cache_dir: Path, tmp_path: Path, short: None) -> Iterator[Callable[..., Harness]]:
    """Starts an engine on a cache of its own, which outlives it."""
    (tmp_path / "kernels").symlink_to(cache_dir / "kernels")

    def begin(switches: Switches = AUTO) -> Harness:
        return Harness(tiny, tmp_path, switches, measure_precision=True)

    yield begin


def settle(harness: Harness) -> PrecisionReport:
    """Go on until nothing more is measured or loaded."""
    core = harness.core

    def rested() -> bool:
        core.step()
        return not (core.serving.precision.is_measuring or core.serving.loading or core.has_work)

    until(rested, "the precision is settled", 120)
    report = core.info().precision
    assert report is not None
    return report


def gate(monkeypatch: pytest.MonkeyPatch, same_token: float) -> None:
    monkeypatch.setattr(loss_module, "LEAST_SAME_TOKEN", same_token)
    monkeypatch.setattr(loss_module, "MOST_PERPLEXITY", 1.0)


def test_full_precision_loses_nothing_and_what_is_ruined_much(tiny: Path, cache_dir: Path) -> None:
    kernels = load_cpu_kernels(cache_dir)
    base = Decoder(tiny, "bf16", CPU, kernels)
    yardstick = Yardstick(tiny, base, Decoder(tiny, "fp32", CPU, kernels, holds_layers=False), lambda: None)
    full = yardstick.loss(Decoder(tiny, "fp32", CPU, kernels))
    assert full.perplexity_change == pytest.approx(0, abs=1e-4) and full.same_token >= 0.999 and full.inside
    assert full.places == loss_module.ANSWERS * loss_module.ANSWER_TOKENS
    ruined = Decoder(tiny, "fp32", CPU, kernels)
    for layer in ruined.layers:
        layer.input_norm.mul_(torch.randn_like(layer.input_norm))
    lost = yardstick.loss(ruined)
    assert lost.same_token < 0.9 and not lost.inside
    low, high = lost.same_token_interval()
    assert 0 < low < lost.same_token < high < 1


def test_auto_moves_to_the_fastest_inside_the_gate_beneath_what_runs(
    start: Callable[..., Harness], speeds: dict[str, float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gate(monkeypatch, 0.0)
    harness = start()
    assert harness.core.serving.decoder.variant == "bf16", "what is ready serves at once"
    harness.add("r", [5, 6, 7], max_tokens=300, ignore_eos=True)
    report = settle(harness)
    assert report.state == "measured" and report.chosen == "int8" == harness.core.serving.decoder.variant
    assert [row.variant for row in report.measured] == ["bf16", "int8"], "mixed can be no faster"
    assert report.measured[1].speed == pytest.approx(2.0) and report.measured[1].inside
    assert len(harness.out.tokens("r")) == 300
    assert {"measuring", "measured"} <= {m.info.precision.state for m in harness.out.of(InfoChanged)}
    loads = [m.loading for m in harness.out.of(SwitchesApplied)]
    assert loads[0] == "int8" and loads[-1] is None and set(loads) == {"int8", None}
    assert all(m.switches.quantization == "auto" for m in harness.out.of(SwitchesApplied))

    again = start()
    assert again.core.serving.decoder.variant == "int8", "known, and on disk: it serves from the first token on"
    assert again.core.info().precision == report
    assert not again.core.serving.precision.is_measuring
    for file in (tmp_path / "quantized").glob("*.safetensors"):
        file.unlink()
    unmade = start()
    assert unmade.core.serving.decoder.variant == "bf16", "what is ready serves at once"
    settle(unmade)
    assert unmade.core.serving.decoder.variant == "int8"


@pytest.mark.parametrize(
    ("slower", "same_token", "tried"),
    [(None, 1.01, ["bf16", "int8", "mixed"]), ("int8", 0.0, ["bf16", "int8"])],
    ids=["nothing passes the gate", "nothing is faster"],
)
def test_auto_stays_where_nothing_pays(
    start: Callable[..., Harness], speeds: dict[str, float], monkeypatch: pytest.MonkeyPatch, slower: str | None,
    same_token: float, tried: list[str],
) -> None:  # fmt: skip
    gate(monkeypatch, same_token)
    if slower:
        speeds[slower] = 0.9
    harness = start()
    report = settle(harness)
    assert report.state == "measured" and report.chosen == "bf16" == harness.core.serving.decoder.variant
    assert [row.variant for row in report.measured] == tried
    assert start().core.info().precision == report


def test_what_is_asked_for_by_name_is_not_moved_and_auto_is_taken_up_later(
    start: Callable[..., Harness], speeds: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate(monkeypatch, 0.0)
    harness = start(Switches(quantization="fp32"))
    assert settle(harness).state == "waiting" and harness.core.serving.decoder.variant == "fp32"
    harness.core.set_switches(AUTO)
    assert settle(harness).chosen == "int8" == harness.core.serving.decoder.variant
    harness.core.set_switches(replace(AUTO, quantization="bf16"))
    settle(harness)
    assert harness.core.serving.decoder.variant == "bf16"


def test_an_error_while_measuring_is_said_and_nothing_else(
    start: Callable[..., Harness], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(precision_module, "Yardstick", broken)
    harness = start()
    report = settle(harness)
    assert (report.state, report.chosen) == ("failed", "bf16") and "no such luck" in report.detail
    assert len(harness.run({"r": [5, 6, 7]}, max_tokens=4, ignore_eos=True)["r"]) == 4


def test_an_engine_that_stops_in_order_is_no_attempt(
    start: Callable[..., Harness], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    halted = threading.Event()

    def waits(*_: Any) -> None:
        halted.wait(60)
        raise RuntimeError("ended")

    monkeypatch.setattr(precision_module, "Yardstick", waits)
    for _ in range(precision_module.ATTEMPTS + 1):
        harness = start()

        def begun() -> Path | None:
            files = list((tmp_path / "quantized").glob("*-precision-*.json"))
            return files[0] if files and json.loads(files[0].read_text()) == {"attempts": 1} else None

        file = until(begun, "it began")
        assert harness.core.serving.precision.is_measuring
        harness.core.close()
        assert json.loads(file.read_text()) == {"attempts": 0}
    halted.set()


def test_a_cache_that_cannot_be_written_and_a_lack_of_memory_measure_nothing(
    start: Callable[..., Harness], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision_module, "available", lambda: 1000)
    assert "free memory" in settle(start()).detail
    monkeypatch.undo()
    monkeypatch.setattr(precision_module, "remember", lambda file, value: False)
    report = settle(start())
    assert report.state == "off" and "cannot be written" in report.detail


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_ends_the_engine_while_it_is_measured_is_left_alone_in_the_end(
    start: Callable[..., Harness], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def killed(*_: Any) -> None:
        raise SystemExit  # the thread ends as if the process had: nothing is said and nothing is cleaned up

    monkeypatch.setattr(precision_module, "Yardstick", killed)
    for attempt in range(precision_module.ATTEMPTS):
        settle(start())
        (file,) = (tmp_path / "quantized").glob("*-precision-*.json")
        assert json.loads(file.read_text()) == {"attempts": attempt + 1}
    report = settle(start())
    assert report.state == "off" and str(precision_module.ATTEMPTS) in report.detail and file.name in report.detail


def test_a_measurement_gives_way_to_requests_but_not_for_ever(
    start: Callable[..., Harness], speeds: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision_module, "LONGEST_PAUSE", 0.02)
    monkeypatch.setattr(precision_module, "CANDIDATES", ("int8",))
    waited: list[float] = []

    def paused(seconds: float) -> None:
        waited.append(seconds)
        time.sleep(seconds)

    monkeypatch.setattr(precision_module, "time", type("T", (), {
        "sleep": staticmethod(paused), "monotonic": staticmethod(time.monotonic), "time": staticmethod(time.time),
    }))  # fmt: skip
    harness = start()
    harness.core.serving.precision.measure(harness.core.serving.decoder, lambda: True)  # under way already
    monkeypatch.setattr(type(harness.core.scheduler), "has_work", property(lambda self: True))
    until(lambda: not harness.core.serving.precision.is_measuring, "it took its turns", 120)
    assert waited and harness.core.serving.precision.report.state == "measured"
