"""Random prompts, all at once, greedy, to their full length."""

from __future__ import annotations

from backend.engine.bench.machine import StepCosts, measure
from backend.engine.bench.recorder import prompts, run_once
from backend.engine.bench.sitting import Sitting


def run(sitting: Sitting) -> None:
    """Throughput by concurrency, with each run's share of the machine's limit."""
    for quantization in sitting.a.quantization:
        core = sitting.engine(quantization)
        for concurrency in sitting.a.concurrency:
            peaks = measure(core.kernels)  # for every row anew: others on the host take of the memory
            sitting.machine(peaks)
            costs = StepCosts(core, peaks)
            batch = prompts(concurrency, sitting.a.input_tokens)
            run_once(core, sitting.recorder, batch, sitting.a.output_tokens)
            runs = [run_once(core, sitting.recorder, batch, sitting.a.output_tokens, costs) for _ in range(2)]
            best = min(runs, key=lambda run: run["seconds"])
            sitting.row("sweep", peer=f"tenfold-{core.serving.decoder.variant}", concurrency=concurrency, **best)
