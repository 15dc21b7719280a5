"""What states of passages at other positions are worth, and what they cost in answers."""

from __future__ import annotations

import random
import statistics
from typing import Any

from backend.engine.bench.recorder import drain
from backend.engine.bench.sitting import Sitting
from backend.engine.bench.workloads.samples import sample_sections
from backend.engine.core import EngineCore
from backend.engine.messages import Generate, SamplingParams
from backend.models.checkpoint import resolve


def run(sitting: Sitting) -> None:
    """Passages read before, in another order behind another question: first token, and how the answers differ."""
    from backend.models.text import TextModel

    text = TextModel(resolve(sitting.a.model, sitting.a.cache_dir))
    passages = sample_sections()
    rng = random.Random(11)
    requests = []
    for _ in range(24):
        chosen = rng.sample(passages, 8)
        content = "Passages:\n\n" + "\n\n".join(chosen) + f"\n\nQuestion: What is said of {chosen[3].split()[0]}?"
        requests.append(text.encode_chat_with([{"role": "user", "content": content}], chosen))

    def answers(core: EngineCore, measured: list[tuple[list[int], Any]]) -> tuple[list[list[int]], float]:
        out, first = [], []
        for ids, segments in measured:
            sitting.recorder.clear()
            sampling = SamplingParams(max_tokens=24, ignore_eos=True)
            core.add(Generate("r0", ids, sampling, segments=segments))
            drain(core)
            usage = sitting.recorder.finished["r0"].usage
            first.append(usage.first_token - usage.arrival)
            out.append(sitting.recorder.tokens["r0"])
        return out, statistics.median(first) * 1000

    for quantization in sitting.a.quantization:
        core = sitting.engine(quantization)
        answers(core, requests[:2])
        exact, plain_ms = answers(core, requests[8:])
        for percent in (0, 10, 20, 40):
            core.set_switches(core.serving.switches.updated({"chunk_reuse": False}))
            core.set_switches(core.serving.switches.updated({"chunk_reuse": True, "chunk_recompute_percent": percent}))
            answers(core, requests[:8])  # every passage is read once
            moved, reused_ms = answers(core, requests[8:])
            same = [[a == b for a, b in zip(x, y, strict=True)] for x, y in zip(moved, exact, strict=True)]
            sitting.row(
                "passages elsewhere", variant=core.serving.decoder.variant, read_again_percent=percent,
                off_ms=round(plain_ms, 1), on_ms=round(reused_ms, 1), ratio=round(plain_ms / reused_ms, 2),
                first_token_same=round(statistics.fmean(row[0] for row in same), 3),
                tokens_same=round(statistics.fmean(x for row in same for x in row), 3),
            )
        del core
