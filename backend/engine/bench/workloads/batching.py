"""What sharing steps is worth."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from backend.engine.bench.recorder import drain, prompts
from backend.engine.bench.sitting import Sitting
from backend.engine.core import EngineCore
from backend.engine.messages import BATCH, Generate, SamplingParams


def run(sitting: Sitting) -> None:
    """How requests share steps: 48 answers of 16 to 256 tokens at once, and urgent ones behind patient ones."""
    rng = random.Random(12)
    batch = prompts(48, 64, seed=12)
    lengths = [rng.randint(16, 256) for _ in batch]

    def answer(core: EngineCore, count: int = 48) -> float:
        sitting.recorder.clear()
        started = time.perf_counter()
        for i, (prompt, length) in enumerate(zip(batch[:count], lengths[:count], strict=True)):
            core.add(Generate(f"r{i}", prompt, SamplingParams(max_tokens=length, ignore_eos=True)))
        drain(core)
        return time.perf_counter() - started

    def urgent(core: EngineCore) -> float:
        """Median seconds to the first token of eight requests that come while 64 patient ones are answered."""
        sitting.recorder.clear()
        for i, prompt in enumerate(prompts(64, 64, seed=13)):
            core.add(Generate(f"p{i}", prompt, SamplingParams(max_tokens=100, ignore_eos=True), path=BATCH))
        arrived: dict[str, float] = {}
        for i, prompt in enumerate(prompts(8, 64, seed=14)):
            for _ in range(10):
                core.step()
            arrived[f"u{i}"] = time.perf_counter()
            core.add(Generate(f"u{i}", prompt, SamplingParams(max_tokens=8, ignore_eos=True)))
        drain(core)
        return statistics.median(sitting.recorder.times[name][0] - at for name, at in arrived.items())

    few = {"max_batch": 16}
    for quantization in sitting.a.quantization:
        core = sitting.engine(quantization)
        rows: tuple[tuple[str, dict[str, Any], dict[str, Any], Callable[[], float]], ...] = (
            ("in-flight batching", {**few, "in_flight_batching": False}, {"in_flight_batching": True},
             partial(answer, core)),
            ("batches of 12 for one at a time", {"max_batch": 1}, {"max_batch": 64}, partial(answer, core, 12)),
            ("urgent before patient, first token", {**few, "dual_path": False}, {"dual_path": True},
             partial(urgent, core)),
        )  # fmt: skip
        for name, off, on, work in rows:
            sitting.row(name, variant=core.serving.decoder.variant, **sitting.compare(core, off, on, work))
        del core
