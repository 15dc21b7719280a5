"""Measures the engine on this machine: `python -m backend.engine.bench --concurrency 1 8 16 32`.

The workload is random token ids with no prefix in common, all requests at once, greedy, every one to its full length.
One warm-up, two measured runs, the better one printed, one JSON line per concurrency. Run it alone on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any

from backend.engine.config import EngineConfig
from backend.engine.messages import Failed, Finished, Generate, SamplingParams, StepOutput
from backend.engine.switches import Switches
from backend.models.checkpoint import PACKAGED_CHAT_MODEL

FIRST_ID, LAST_ID = 100, 40_000


def prompts(concurrency: int, tokens: int) -> list[list[int]]:
    """Token ids, the same at every call with the same arguments."""
    rng = random.Random(concurrency)
    return [[rng.randint(FIRST_ID, LAST_ID) for _ in range(tokens)] for _ in range(concurrency)]


class Recorder:
    """Collects what the engine emits and when."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {}
        self.ended: dict[str, float] = {}
        self.tokens: dict[str, list[int]] = {}

    def __call__(self, message: Any) -> None:
        """Take a message."""
        now = time.perf_counter()
        if isinstance(message, StepOutput):
            for request_id, token, _ in message.tokens:
                self.times.setdefault(request_id, []).append(now)
                self.tokens.setdefault(request_id, []).append(token)
        elif isinstance(message, Finished):
            self.ended[message.request_id] = now
        elif isinstance(message, Failed):
            raise RuntimeError(f"{message.request_id}: {message.error}")


def percentile(values: list[float], share: float) -> float:
    """Linear-interpolated percentile; `share` from 0 to 1."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def run_once(core: Any, recorder: Recorder, batch: list[list[int]], output_tokens: int) -> dict[str, float]:
    """Serve the batch once and return its figures."""
    recorder.__init__()  # type: ignore[misc]
    sampling = SamplingParams(max_tokens=output_tokens, ignore_eos=True)
    start = time.perf_counter()
    for i, prompt in enumerate(batch):
        core.add(Generate(f"r{i}", prompt, sampling))
    while core.has_work:
        core.step()
    seconds = time.perf_counter() - start
    produced = sum(map(len, recorder.tokens.values()))
    if produced != len(batch) * output_tokens:
        raise RuntimeError(f"{produced} tokens instead of {len(batch) * output_tokens}")
    ttft = [1000 * (times[0] - start) for times in recorder.times.values()]
    tpot = [1000 * (times[-1] - times[0]) / max(len(times) - 1, 1) for times in recorder.times.values()]
    return {
        "out_tok_s": round(produced / seconds, 1),
        "seconds": round(seconds, 3),
        "ttft_p50_ms": round(percentile(ttft, 0.5), 1),
        "ttft_p95_ms": round(percentile(ttft, 0.95), 1),
        "tpot_ms": round(statistics.fmean(tpot), 2),
    }


def main() -> None:
    """Parse arguments, run the sweep, print one JSON line per concurrency."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 16, 32])
    parser.add_argument("--input-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--quantization", nargs="+", default=["auto"], help="auto, fp32, bf16, int8")
    parser.add_argument("--model", default=PACKAGED_CHAT_MODEL)
    parser.add_argument("--max-batch", type=int, default=64)
    parser.add_argument("--token-budget", type=int, default=EngineConfig.token_budget)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--no-kernels", action="store_true", help="the portable torch path")
    parser.add_argument(
        "--cache-dir", type=Path, default=Path(os.environ.get("TENFOLD_DATA_DIR", "data/var")) / "cache"
    )
    a = parser.parse_args()
    from backend.engine.core import EngineCore

    for quantization in a.quantization:
        recorder = Recorder()
        core = EngineCore(
            EngineConfig(
                model=a.model,
                cache_dir=a.cache_dir,
                device=a.device,
                threads=a.threads,
                token_budget=a.token_budget,
                use_kernels=not a.no_kernels,
                switches=Switches(
                    prefix_cache=False, speculation="off", max_batch=a.max_batch, quantization=quantization
                ),
            ),
            recorder,
        )
        for concurrency in a.concurrency:
            batch = prompts(concurrency, a.input_tokens)
            run_once(core, recorder, batch, a.output_tokens)
            runs = [run_once(core, recorder, batch, a.output_tokens) for _ in range(2)]
            best = min(runs, key=lambda run: run["seconds"])
            print(
                json.dumps({"peer": f"tenfold-{core.decoder.variant}", "concurrency": concurrency, **best}), flush=True
            )


if __name__ == "__main__":
    main()
