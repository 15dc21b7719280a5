"""What one busy process beside the engine costs it."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
from collections.abc import Iterator

from backend.engine.bench.recorder import prompts, run_once
from backend.engine.bench.sitting import Sitting
from backend.engine.core import EngineCore

TURNS = 4
LONGEST = 600
"""Seconds after which a neighbour that nobody ended ends by itself."""
BUSY = f"import time\nend = time.time() + {LONGEST}\nwhile time.time() < end: pass"


def run(sitting: Sitting) -> None:
    """Throughput beside a process that computes on one core ÷ alone, in turns: the median of the ratios."""
    for quantization in sitting.a.quantization:
        core = sitting.engine(quantization)
        for concurrency in sitting.a.concurrency:
            batch = prompts(concurrency, sitting.a.input_tokens)
            throughput(sitting, core, batch)
            pairs = []
            for _ in range(TURNS):
                alone = throughput(sitting, core, batch)
                with neighbour():
                    pairs.append((alone, throughput(sitting, core, batch)))
            ratios = sorted(beside / alone for alone, beside in pairs)
            sitting.row(
                "neighbour", variant=core.serving.decoder.variant, concurrency=concurrency,
                alone_tok_s=round(statistics.median(a for a, _ in pairs), 1),
                beside_tok_s=round(statistics.median(b for _, b in pairs), 1),
                ratio=round(statistics.median(ratios), 3), least=round(ratios[0], 3), most=round(ratios[-1], 3),
            )


def throughput(sitting: Sitting, core: EngineCore, batch: list[list[int]]) -> float:
    """Tokens per second of one run."""
    return run_once(core, sitting.recorder, batch, sitting.a.output_tokens)["out_tok_s"]


@contextlib.contextmanager
def neighbour() -> Iterator[None]:
    """A process that keeps one core busy, wherever the system puts it."""
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        yield
    finally:
        process.kill()
        process.wait()
