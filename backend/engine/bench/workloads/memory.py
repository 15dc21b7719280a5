"""What sequences take, and whether memory stays flat."""

from __future__ import annotations

import random

from backend.engine.bench.recorder import FIRST_ID, LAST_ID, drain, prompts
from backend.engine.bench.sitting import Sitting
from backend.engine.config import BLOCK_SIZE
from backend.engine.messages import BATCH, Generate, SamplingParams


def run(sitting: Sitting) -> None:
    """64 sequences of 2,000 tokens: their pages, and what of them is empty; then 10,000 short requests."""
    core = sitting.engine(sitting.a.quantization[0], config={"kv_cache_bytes": 4 << 30})
    batch = prompts(64, 1650, seed=3)
    for i, prompt in enumerate(batch):  # patient and long enough to be all there at once
        core.add(Generate(f"r{i}", prompt, SamplingParams(max_tokens=350, ignore_eos=True), path=BATCH))
    used = tokens = 0
    while core.has_work:
        core.step()
        if core.cache.used > used:
            used, tokens = core.cache.used, sum(seq.computed for seq in core.scheduler.running)
    sitting.row(
        "64 sequences of 2,000 tokens", pages_gb=round(used * core.serving.attention.block_bytes / 1e9, 2),
        waste=round(1 - tokens / (used * BLOCK_SIZE), 4), preemptions=core.scheduler.preemptions,
    )
    del core
    core = sitting.engine(sitting.a.quantization[0], prefix_cache=True)
    rng, marks = random.Random(0), []
    for start in range(0, 10_000, 250):
        sitting.recorder.clear()
        for i in range(start, start + 250):
            prompt = [rng.randint(FIRST_ID, LAST_ID) for _ in range(rng.randint(2, 24))]
            core.add(Generate(f"s{i}", prompt, SamplingParams(max_tokens=2, ignore_eos=True)))
        drain(core)
        if (start + 250) % 2500 == 0:
            marks.append(round(sitting.process.memory_info().rss / 2**20, 1))
    core.cache.check([])
    sitting.row("10,000 short requests", memory_after_each_2500_mb=marks)
