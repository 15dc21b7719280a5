"""What a prefix is worth that is known already."""

from __future__ import annotations

import tempfile
from pathlib import Path

from backend.engine.bench.recorder import prompts, run_once
from backend.engine.bench.sitting import Sitting
from backend.engine.core import EngineCore


def run(sitting: Sitting) -> None:
    """First token of a 1,500-token prompt: nothing cached, 1,400 tokens in memory, and on disk after a restart."""
    shared, tails = prompts(1, 1400, seed=5)[0], prompts(8, 100, seed=6)
    with tempfile.TemporaryDirectory() as folder:
        config = {"prefix_dir": Path(folder)}
        for quantization in sitting.a.quantization:

            def first_token(core: EngineCore, prompt: list[int]) -> float:
                run_once(core, sitting.recorder, [prompt], 1)
                usage = sitting.recorder.finished["r0"].usage
                return (usage.first_token - usage.arrival) * 1000

            core = sitting.engine(quantization, config=config, prefix_cache=True)
            first_token(core, prompts(1, 1500, seed=4)[0])
            cold = min(first_token(core, p) for p in prompts(3, 1500, seed=7))
            first_token(core, shared + tails[0])
            warm = min(first_token(core, shared + tail) for tail in tails[1:4])
            cached = sitting.recorder.finished["r0"].usage.cached_tokens
            core.close()
            disk: list[float] = []
            for tail in tails[4:7]:
                again = sitting.engine(quantization, config=config, prefix_cache=True)
                first_token(again, prompts(1, 200, seed=len(disk))[0])
                disk.append(first_token(again, shared + tail))
                restored = again.stats(0).disk_tokens
                again.close()
            sitting.row(
                "prefix", variant=core.serving.decoder.variant, uncached_ms=round(cold, 1), memory_ms=round(warm, 1),
                disk_ms=round(min(disk), 1), memory_share=round(warm / cold, 3),
                disk_share=round(min(disk) / cold, 3), cached_tokens=cached, restored_tokens=restored,
            )
