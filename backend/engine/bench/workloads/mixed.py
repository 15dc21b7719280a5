"""What a long prompt costs those who are being answered."""

from __future__ import annotations

import itertools
import statistics
import time

from backend.engine.bench.recorder import drain, percentile, prompts
from backend.engine.bench.sitting import Sitting
from backend.engine.core import EngineCore
from backend.engine.messages import Generate, SamplingParams


def run(sitting: Sitting) -> None:
    """A 4,000-token prompt arrives while others receive their answers: how long their tokens wait meanwhile."""
    for quantization in sitting.a.quantization:
        core = sitting.engine(quantization)
        for users in (1, 4, 16):
            for chunked in (False, True):
                core.set_switches(core.serving.switches.updated({"chunked_prefill": chunked}))
                figures = [beside(sitting, core, users, seed) for seed in range(2)][-1]  # the first finds the pace
                sitting.row(
                    "long prompt beside others", variant=core.serving.decoder.variant, users=users,
                    chunked_prefill=chunked, **figures,
                )
        del core


def beside(sitting: Sitting, core: EngineCore, users: int, seed: int) -> dict[str, float]:
    """Gaps between the tokens of `users` while a 4,000-token prompt is read, against those before."""
    sitting.recorder.clear()
    for i, prompt in enumerate(prompts(users, 64, seed=users)):
        core.add(Generate(f"u{i}", prompt, SamplingParams(max_tokens=2500, ignore_eos=True)))
    while len(sitting.recorder.tokens) < users or len(sitting.recorder.tokens["u0"]) < 60:
        core.step()
    arrived = time.perf_counter()
    core.add(Generate("long", prompts(1, 4000, seed=seed)[0], SamplingParams(max_tokens=2, ignore_eos=True)))
    while "long" not in sitting.recorder.times:
        core.step()
    ready = sitting.recorder.times["long"][0]
    for _ in range(60):
        core.step()
    for i in range(users):
        core.abort(f"u{i}")
    drain(core)
    usual: list[float] = []
    gaps: list[float] = []
    for i in range(users):
        for before, after in itertools.pairwise(sitting.recorder.times[f"u{i}"]):
            (gaps if before < ready and after > arrived else usual).append(after - before)
    normal = statistics.median(usual)  # of as many tokens before as after: answers grow meanwhile
    return {
        "usual_ms": round(normal * 1000, 2),
        **{f"p{p}_ratio": round(percentile(gaps, p / 100) / normal, 2) for p in (50, 95, 99)},
        "long_ttft_s": round(ready - arrived, 2),
    }
