"""What reading less of long contexts is worth."""

from __future__ import annotations

import statistics
import time
from typing import Any

from backend.engine.bench.recorder import prompts, run_once
from backend.engine.bench.sitting import Sitting
from backend.engine.core import EngineCore
from backend.engine.messages import BATCH, Generate, SamplingParams


def run(sitting: Sitting) -> None:
    """Decoding behind long contexts: top-K sparse, a prefix that all have in common, pages in 8 bits."""
    dense: dict[str, Any] = {"sparse_attention": False}
    sparse: dict[str, Any] = {"sparse_attention": True, "sparse_keep_percent": 25}
    for quantization in sitting.a.quantization:
        core = sitting.engine(quantization, config={"kv_cache_bytes": 4 << 30})
        for context, count in ((1000, 32), (4000, 8)):
            batch = prompts(count, context, seed=context)
            at: dict[str, Any] = {"variant": core.serving.decoder.variant, "context": context, "sequences": count}
            core.set_switches(core.serving.switches.updated({"kv_cache": "auto"}))
            steps = decode_steps(sitting, core, batch, {"off": dense, "on": sparse})
            sitting.row("sparse attention, 25 %", **at, **_with_ratio(steps))
            core.set_switches(core.serving.switches.updated({**dense, "kv_cache": "int8"}))
            small = decode_steps(sitting, core, batch, {"on": {}})
            sitting.row("8-bit pages", **at, **_with_ratio({"off": steps["off"], **small}))
        shared = prompts(1, 1000, seed=9)[0]
        batch = [shared + tail for tail in prompts(32, 30, seed=10)]
        core.set_switches(core.serving.switches.updated({"prefix_cache": True, "kv_cache": "auto"}))
        run_once(core, sitting.recorder, [shared], 1)
        states = {name: {"shared_prefix_attention": name == "on"} for name in ("off", "on")}
        steps = decode_steps(sitting, core, batch, states)
        at = {"variant": core.serving.decoder.variant, "context": 1000, "sequences": 32}
        sitting.row("shared prefix", **at, **_with_ratio(steps))
        del core


def decode_steps(
    sitting: Sitting, core: EngineCore, batch: list[list[int]], states: dict[str, dict[str, Any]], rounds: int = 4
) -> dict[str, float]:
    """Median milliseconds of a decode step under each state of the switches, in turns over the same sequences."""
    sitting.recorder.clear()
    for i, prompt in enumerate(batch):
        # Patient ones, so that prompts are read at full speed beside those that decode already.
        core.add(Generate(f"r{i}", prompt, SamplingParams(max_tokens=400, ignore_eos=True), path=BATCH))
    while core.scheduler.waiting[BATCH] or any(seq.remaining > 1 for seq in core.scheduler.running):
        core.step()
    seconds: dict[str, list[float]] = {name: [] for name in states}
    for _ in range(rounds):
        for name, changes in states.items():
            core.set_switches(core.serving.switches.updated(changes))
            core.step()
            for _ in range(5):
                began = time.perf_counter()
                core.step()
                seconds[name].append(time.perf_counter() - began)
    for i in range(len(batch)):
        core.abort(f"r{i}")
    return {name: round(1000 * statistics.median(values), 2) for name, values in seconds.items()}


def _with_ratio(steps: dict[str, float]) -> dict[str, float]:
    return {"off_ms": steps["off"], "on_ms": steps["on"], "ratio": round(steps["off"] / steps["on"], 2)}
