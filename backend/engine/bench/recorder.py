"""What the engine emits and when, and one batch served and timed."""

from __future__ import annotations

import random
import statistics
import time
from typing import Any

from backend.engine.bench.machine import StepCosts
from backend.engine.core import EngineCore
from backend.engine.messages import Failed, Finished, Generate, SamplingParams, StepOutput

FIRST_ID, LAST_ID = 100, 40_000


def prompts(concurrency: int, tokens: int, seed: int | None = None) -> list[list[int]]:
    """Random token ids, the same at every call with the same arguments."""
    rng = random.Random(concurrency if seed is None else seed)
    return [[rng.randint(FIRST_ID, LAST_ID) for _ in range(tokens)] for _ in range(concurrency)]


class Recorder:
    """Collects what the engine emits and when."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.times: dict[str, list[float]] = {}
        self.finished: dict[str, Finished] = {}
        self.tokens: dict[str, list[int]] = {}

    def __call__(self, message: Any) -> None:
        """Take a message."""
        now = time.perf_counter()
        if isinstance(message, StepOutput):
            for request_id, token, _ in message.tokens:
                self.times.setdefault(request_id, []).append(now)
                self.tokens.setdefault(request_id, []).append(token)
        elif isinstance(message, Finished):
            self.finished[message.request_id] = message
        elif isinstance(message, Failed):
            raise RuntimeError(f"{message.request_id}: {message.error}")


def percentile(values: list[float], share: float) -> float:
    """Linear-interpolated percentile; `share` from 0 to 1."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def run_once(
    core: EngineCore, recorder: Recorder, batch: list[list[int]], output_tokens: int, costs: StepCosts | None = None,
    **drawn: Any,
) -> dict[str, float]:  # fmt: skip
    """Serve the batch once and return its figures; with `costs`, also how near decoding came to the machine's limit.

    `drawn` is how tokens are drawn, as `SamplingParams` has it; greedily unless it says so.
    """
    recorder.clear()
    sampling = SamplingParams(max_tokens=output_tokens, ignore_eos=True, **drawn)
    decode_seconds = least = read = operations = 0.0
    start = time.perf_counter()
    for i, prompt in enumerate(batch):
        core.add(Generate(f"r{i}", prompt, sampling))
    while core.has_work:
        running = core.scheduler.running
        decoding = len(running) == len(batch) and all(seq.remaining == 1 for seq in running)
        contexts = [seq.length for seq in running] if decoding else []
        began = time.perf_counter()
        core.step()
        took = time.perf_counter() - began
        if contexts and costs is not None and (cost := costs(contexts)) is not None:
            decode_seconds += took
            least, read, operations = least + cost.seconds, read + cost.read, operations + cost.operations
    seconds = time.perf_counter() - start
    produced = sum(map(len, recorder.tokens.values()))
    if produced != len(batch) * output_tokens:
        raise RuntimeError(f"{produced} tokens instead of {len(batch) * output_tokens}")
    ttft = [1000 * (times[0] - start) for times in recorder.times.values()]
    tpot = [1000 * (times[-1] - times[0]) / max(len(times) - 1, 1) for times in recorder.times.values()]
    row = {
        "out_tok_s": round(produced / seconds, 1),
        "seconds": round(seconds, 3),
        "ttft_p50_ms": round(percentile(ttft, 0.5), 1),
        "ttft_p95_ms": round(percentile(ttft, 0.95), 1),
        "tpot_ms": round(statistics.fmean(tpot), 2),
    }
    if decode_seconds:
        row |= {
            "decode_gb_s": round(read / decode_seconds / 1e9, 1),
            "decode_gflop_s": round(operations / decode_seconds / 1e9),
            "share_of_limit": round(least / decode_seconds, 3),
        }
    return row


def drain(core: EngineCore) -> None:
    """Step until nothing is left to do."""
    while core.has_work:
        core.step()
