"""What the presets and each switch are worth: `python -m backend.lab.ablation`.

Sends the document workload, all at once, through an engine of its own in one state of the switches after the other.
Cost is the engine's busy time at the price of the machine; quality is BLEU (sacrebleu) of the greedy answers against
answers that a person wrote. One JSON line per state. Run it alone on the machine.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import sacrebleu

from backend.engine.client import LocalEngine
from backend.engine.config import EngineConfig
from backend.engine.messages import Failed, Finished, Generate, SamplingParams, Usage
from backend.engine.protocol import Event, Token
from backend.engine.switches import Switches
from backend.lab.workload import Case, document_questions
from backend.metering.percentiles import percentiles
from backend.models.text import TextModel
from backend.settings import Settings
from backend.switchboard.presets import PRESETS

ANSWER_TOKENS = 48
LOAD_TIMEOUT = 120.0


def states(ablate: bool) -> dict[str, Switches]:
    """The presets, and with `ablate` also Max savings with one switch at a time as in Baseline."""
    out = dict(PRESETS)
    if ablate:
        best, base = PRESETS["Max savings"], PRESETS["Baseline"]
        for name, value in base.as_dict().items():
            if value != getattr(best, name) and name not in ("embedding_cache", "dual_path"):
                out[f"Max savings without {name}"] = replace(best, **{name: value})
    return out


def apply(engine: LocalEngine, switches: Switches) -> None:
    """Set switches and wait until they are in force, weights included."""
    engine.set_switches(switches)
    deadline = time.monotonic() + LOAD_TIMEOUT
    while time.monotonic() < deadline:
        applied = engine.applied
        if applied and applied.switches == switches and applied.loading is None:
            if applied.error:
                raise RuntimeError(applied.error)
            precision = engine.known().precision
            settled = precision is None or precision.state not in ("waiting", "measuring")
            if switches.quantization != "auto" or (settled and applied.variant == engine.known().variant):
                return
        time.sleep(0.05)
    raise TimeoutError("the switches did not come into force")


def serve(engine: LocalEngine, cases: list[Case], tag: str) -> tuple[list[list[int]], list[Usage], float]:
    """Send every case at once; returns token ids and usage in order, and the engine's busy seconds."""
    before = engine.ping(30).busy_seconds
    tokens: list[list[int]] = [[] for _ in cases]
    usages: list[Usage | None] = [None] * len(cases)
    left = threading.Semaphore(0)

    def sink_for(i: int) -> Any:
        def sink(event: Event) -> None:
            if isinstance(event, Token):
                tokens[i].append(event.token_id)
            elif isinstance(event, Finished):
                usages[i] = event.usage
                left.release()
            elif isinstance(event, Failed):
                left.release()

        return sink

    sampling = SamplingParams(max_tokens=ANSWER_TOKENS)
    for i, case in enumerate(cases):
        engine.generate(Generate(f"{tag}-{i}", case.prompt, sampling, arrival=time.monotonic()), sink_for(i))
    for _ in cases:
        left.acquire()
    done = [usage for usage in usages if usage is not None]
    if len(done) != len(cases):
        raise RuntimeError(f"{len(cases) - len(done)} requests failed")
    return tokens, done, engine.ping(30).busy_seconds - before


def main() -> None:
    """Parse arguments, run every state, print one JSON line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3, help="how often every question is asked")
    parser.add_argument("--ablate", action="store_true", help="also take single switches out of Max savings")
    parser.add_argument("--price-per-hour", type=float, default=0.1)
    a = parser.parse_args()
    settings = Settings()
    engine = LocalEngine(
        EngineConfig(model=settings.model, cache_dir=settings.cache_dir, measure_precision=settings.measure_precision)
    )
    engine.start()
    try:
        if not engine.wait_ready(LOAD_TIMEOUT):
            raise RuntimeError(engine.state.detail)
        text = TextModel(Path(engine.known().model_folder))
        cases = document_questions(text, a.repeat)
        references = [case.reference for case in cases]
        baseline: dict[str, Any] = {}
        for name, switches in states(a.ablate).items():
            apply(engine, switches)
            # The prefix cache starts empty in every state; one short request warms the kernels.
            apply(engine, replace(switches, prefix_cache=False))
            serve(engine, [Case(cases[0].prompt[:16], "")], f"warm-{name}")
            apply(engine, switches)
            tokens, usages, busy = serve(engine, cases, name)
            answers = [text.decode(ids).strip() for ids in tokens]
            bleu = sacrebleu.corpus_bleu(answers, [references]).score
            latency = percentiles([u.finished - u.arrival for u in usages])
            ttft = percentiles([u.first_token - u.arrival for u in usages])
            assert latency is not None and ttft is not None
            row: dict[str, Any] = {
                "state": name,
                "requests": len(cases),
                "busy_seconds": round(busy, 2),
                "cost_usd": round(busy * a.price_per_hour / 3600, 7),
                "ttft_p50_ms": round(ttft.p50 * 1000),
                "latency_p95_ms": round(latency.p95 * 1000),
                "cached_share": round(sum(u.cached_tokens for u in usages) / sum(u.prompt_tokens for u in usages), 3),
                "bleu": round(bleu, 2),
            }
            baseline = baseline or {**row, "answers": answers}
            row["cost_ratio"] = round(baseline["busy_seconds"] / busy, 1)
            row["bleu_change"] = round(bleu - baseline["bleu"], 2)
            same = sum(x == y for x, y in zip(answers, baseline["answers"], strict=True))
            row["same_answers"] = round(same / len(answers), 3)
            print(json.dumps(row), flush=True)
    finally:
        engine.stop()


if __name__ == "__main__":
    main()
