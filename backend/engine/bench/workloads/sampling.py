"""What drawing tokens costs beside taking the likeliest."""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

from backend.engine.bench.recorder import prompts, run_once
from backend.engine.bench.sitting import Sitting
from backend.engine.core import EngineCore

DRAWN: dict[str, dict[str, Any]] = {
    "top_p": {"temperature": 0.8, "top_p": 0.95, "seed": 1},
    "top_k, penalty": {"temperature": 0.8, "top_k": 40, "repetition_penalty": 1.1, "seed": 1},
    "logprobs": {"logprobs": 5},
}
TURNS = 5


def run(sitting: Sitting) -> None:
    """Speed of each way to draw ÷ greedy, in turns: the median of the ratios of neighbours."""
    for quantization in sitting.a.quantization:
        core = sitting.engine(quantization)
        for concurrency in sitting.a.concurrency:
            batch = prompts(concurrency, sitting.a.input_tokens)
            once = partial(token_ms, sitting, core, batch)
            once()
            for name, drawn in DRAWN.items():
                ratios = sorted(once() / once(**drawn) for _ in range(TURNS))
                sitting.row(
                    "sampling", variant=core.serving.decoder.variant, concurrency=concurrency, drawn=name,
                    speed_of_greedy=round(statistics.median(ratios), 3), least=round(ratios[0], 3),
                    most=round(ratios[-1], 3),
                )


def token_ms(sitting: Sitting, core: EngineCore, batch: list[list[int]], **drawn: Any) -> float:
    """Milliseconds a token of one run."""
    return run_once(core, sitting.recorder, batch, sitting.a.output_tokens, **drawn)["tpot_ms"]
