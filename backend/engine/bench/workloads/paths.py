"""What a full batch backlog costs those who wait for an answer, and what is left of its own throughput."""

from __future__ import annotations

import itertools
import random
import time

from backend.engine.bench.recorder import drain, percentile, prompts
from backend.engine.bench.sitting import Sitting
from backend.engine.core import EngineCore
from backend.engine.messages import BATCH, Generate, SamplingParams

ASKED, ANSWERED = 128, 64
"""Tokens of a question and of its answer."""
PEOPLE = 120
"""Questions in a run."""
LOAD = 0.6
"""Of the rate at which so many questions at once are answered."""
BACKLOG = 32
"""Batch requests that are there at any time."""
ROUNDS = 3


def run(sitting: Sitting) -> None:
    """Questions arrive by chance at 60 % of capacity, alone and beside a batch, in turn."""
    for quantization in sitting.a.quantization:
        core = sitting.engine(quantization)
        began = time.perf_counter()
        for i, prompt in enumerate(prompts(BACKLOG, ASKED, seed=1)):
            core.add(Generate(f"c{i}", prompt, SamplingParams(max_tokens=ANSWERED, ignore_eos=True)))
        drain(core)
        rate = LOAD * BACKLOG / (time.perf_counter() - began)
        runs: dict[bool, list[dict[str, float]]] = {False: [], True: []}
        for turn in range(ROUNDS):
            for batch in (False, True) if turn % 2 else (True, False):
                runs[batch].append(_people(sitting, core, rate, seed=turn, batch=batch))
        alone, beside = ({name: _mean(rows, name) for name in rows[0]} for rows in (runs[False], runs[True]))
        peak, quiet = _batch_alone(sitting, core, "realtime"), _batch_alone(sitting, core, BATCH)
        sitting.row(
            "two paths", variant=core.serving.decoder.variant, questions_per_s=round(rate, 2),
            **{f"{name}_alone": round(alone[name], 1) for name in ("ttft_p95_ms", "itl_p95_ms")},
            **{f"{name}_ratio": round(beside[name] / alone[name], 2) for name in ("ttft_p95_ms", "itl_p95_ms")},
            batch_tok_s_beside=round(beside["batch_tok_s"]), batch_tok_s_alone=round(quiet),
            batch_alone_of_peak=round(quiet / peak, 3),
        )  # fmt: skip
        del core


def _mean(rows: list[dict[str, float]], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)


def _people(sitting: Sitting, core: EngineCore, rate: float, *, seed: int, batch: bool) -> dict[str, float]:
    sitting.recorder.clear()
    rng = random.Random(seed)
    arrivals = list(itertools.accumulate(rng.expovariate(rate) for _ in range(PEOPLE)))
    questions, work = prompts(PEOPLE, ASKED, seed=100 + seed), itertools.count()
    arrived: dict[str, float] = {}
    began = time.perf_counter()
    while len(arrived) < PEOPLE or any(f"p{i}" not in sitting.recorder.finished for i in range(PEOPLE)):
        while len(arrived) < PEOPLE and time.perf_counter() - began >= arrivals[len(arrived)]:
            name = f"p{len(arrived)}"
            sampling = SamplingParams(max_tokens=ANSWERED, ignore_eos=True)
            core.add(Generate(name, questions[len(arrived)], sampling, arrival=time.monotonic()))
            arrived[name] = began + arrivals[len(arrived)]  # also where the engine was busy then
        live = sum(1 for name in core.requests.live if name.startswith("b"))
        for _ in range(BACKLOG - live if batch else 0):
            at = next(work)
            core.add(
                Generate(
                    f"b{at}", prompts(1, ASKED, seed=10_000 * seed + at)[0],
                    SamplingParams(max_tokens=128, ignore_eos=True), path=BATCH, arrival=time.monotonic(),
                )
            )  # fmt: skip
        if core.has_work:
            core.step()
        else:
            time.sleep(0.0005)
    seconds = time.perf_counter() - began
    for name in list(core.requests.live):
        core.abort(name)
    drain(core)
    times = sitting.recorder.times
    gaps = [after - before for name in arrived for before, after in itertools.pairwise(times[name])]
    return {
        "ttft_p95_ms": 1000 * percentile([times[name][0] - at for name, at in arrived.items()], 0.95),
        "itl_p95_ms": 1000 * percentile(gaps, 0.95),
        "batch_tok_s": sum(len(tokens) for name, tokens in sitting.recorder.tokens.items() if name[0] == "b") / seconds,
    }


def _batch_alone(sitting: Sitting, core: EngineCore, path: str) -> float:
    """Tokens a second of twice a backlog at once, when nobody has asked for a while."""
    sitting.recorder.clear()
    time.sleep(6)
    began = time.perf_counter()
    for i, prompt in enumerate(prompts(2 * BACKLOG, ASKED, seed=7 if path == BATCH else 8)):
        core.add(Generate(f"b{i}", prompt, SamplingParams(max_tokens=128, ignore_eos=True), path=path))
    drain(core)
    return sum(map(len, sitting.recorder.tokens.values())) / (time.perf_counter() - began)
