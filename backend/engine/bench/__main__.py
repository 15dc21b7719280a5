"""Measures the engine on this machine: `python -m backend.engine.bench [--workloads sweep prefix …]`.

Prints one JSON line per row. Prompts of the sweep are random token ids with no prefix in common, all requests at once,
greedy, every one to its full length. Where a row compares a switch on and off, both ran in turn in this sitting, and
`ratio` is off ÷ on in time: above 1 the switch pays. Run it alone on the machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch

from backend import packaged
from backend.engine.bench.machine import Peaks, StepCosts, measure
from backend.engine.config import BLOCK_SIZE, EngineConfig
from backend.engine.core import EngineCore
from backend.engine.embedding.encoder import Encoder
from backend.engine.kernels.build import load_cpu_kernels
from backend.engine.messages import BATCH, Failed, Finished, Generate, SamplingParams, StepOutput
from backend.engine.quantization.linear import working_dtype
from backend.engine.switches import Switches
from backend.models.checkpoint import resolve

FIRST_ID, LAST_ID = 100, 40_000
SAMPLES = Path(__file__).resolve().parents[3] / "data" / "samples"
PLAIN = {"prefix_cache": False, "speculation": "off"}


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
    core: EngineCore, recorder: Recorder, batch: list[list[int]], output_tokens: int, costs: StepCosts | None = None
) -> dict[str, float]:
    """Serve the batch once and return its figures; with `costs`, also how near decoding came to the machine's limit."""
    recorder.clear()
    sampling = SamplingParams(max_tokens=output_tokens, ignore_eos=True)
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


def sample_sections() -> list[str]:
    """The sections of the sample documents, each with its heading."""
    return [
        part.strip() for path in sorted(SAMPLES.glob("*.md")) for part in path.read_text().split("\n## ")[1:]
    ]


class Bench:
    """One sitting: engines made from the same arguments, rows printed as they come."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.a = arguments
        self.recorder = Recorder()
        self.process = psutil.Process()

    def engine(self, quantization: str, *, config: dict[str, Any] | None = None, **switches: Any) -> EngineCore:
        """A fresh engine."""
        return EngineCore(
            EngineConfig(
                model=self.a.model, cache_dir=self.a.cache_dir, device=self.a.device, threads=self.a.threads,
                token_budget=self.a.token_budget, use_kernels=not self.a.no_kernels,
                **{"kv_cache_bytes": self.a.kv_cache_mb << 20, **(config or {})},
                switches=Switches().updated(
                    {"max_batch": self.a.max_batch, "quantization": quantization, **PLAIN, **switches}
                ),
            ),
            self.recorder,
        )  # fmt: skip

    def row(self, workload: str, **figures: Any) -> None:
        """Print a row."""
        now, most = self.process.memory_info().rss / 2**20, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak = most / 2**20 if sys.platform == "darwin" else most / 2**10
        memory = {"memory_mb": round(now), "peak_memory_mb": round(peak)}
        print(json.dumps({"workload": workload, **figures, **memory}), flush=True)

    def reference(self, device: torch.device, dtype: torch.dtype) -> Any:
        """Transformers' own model, which ends no answer early; threads pinned."""
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(resolve(self.a.model, self.a.cache_dir), dtype=dtype).to(device)
        model.generation_config.eos_token_id = None
        torch.set_num_threads(EngineConfig("", Path(), threads=self.a.threads).thread_count())
        return model.eval()

    def compare(self, core: EngineCore, off: dict[str, Any], on: dict[str, Any], work: Callable[[], float]) -> Any:
        """Best of three of a piece of work with a switch off and on, in turns."""
        best: dict[bool, float] = {}
        for _ in range(3):
            for state, changes in ((False, off), (True, on)):
                core.set_switches(core.switches.updated(changes))
                best[state] = min(best.get(state, 1e9), work())
        return {"off": round(best[False], 4), "on": round(best[True], 4), "ratio": round(best[False] / best[True], 2)}

    # ---- workloads -----------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Throughput by concurrency, with each run's share of the machine's limit."""
        for quantization in self.a.quantization:
            core = self.engine(quantization)
            for concurrency in self.a.concurrency:
                peaks = measure(core.kernels)  # for every row anew: others on the host take of the memory
                self.machine(peaks)
                costs = StepCosts(core, peaks)
                batch = prompts(concurrency, self.a.input_tokens)
                run_once(core, self.recorder, batch, self.a.output_tokens)
                runs = [run_once(core, self.recorder, batch, self.a.output_tokens, costs) for _ in range(2)]
                best = min(runs, key=lambda run: run["seconds"])
                self.row("sweep", peer=f"tenfold-{core.decoder.variant}", concurrency=concurrency, **best)

    def machine(self, peaks: Peaks) -> None:
        """What the machine reached in the plainest loops."""
        self.row(
            "machine", read_gb_s=round(peaks.read / 1e9, 1),
            **{f"peak_gop_s_{bits}_bit": round(value / 1e9) for bits, value in peaks.operations.items()},
        )

    def baseline(self) -> None:
        """Transformers' `generate` in fp32, one request at a time, threads pinned: what everything is held against."""
        model = self.reference(torch.device("cpu"), torch.float32)
        seconds = []
        for prompt in prompts(3, self.a.input_tokens):
            ids = torch.tensor([prompt])
            started = time.perf_counter()
            model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=self.a.output_tokens, do_sample=False
            )
            seconds.append(time.perf_counter() - started)
        rate = self.a.output_tokens / min(seconds[1:])
        self.row("baseline", peer="transformers-fp32-generate", concurrency=1, out_tok_s=round(rate, 1))

    def transformers(self) -> None:
        """Transformers on the same device and in the working dtype: `generate` on a batch, and continuous batching."""
        from transformers import GenerationConfig

        device = torch.device(EngineConfig("", Path(), device=self.a.device).device_type())
        dtype = working_dtype(device)
        model = self.reference(device, dtype)
        count = self.a.output_tokens
        settings = GenerationConfig(
            max_new_tokens=count, min_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0
        )

        def whole_batch(batch: list[list[int]]) -> int:
            ids = torch.tensor(batch, device=device)
            out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
            return int(out.shape[0] * (out.shape[1] - ids.shape[1]))

        def continuous(batch: list[list[int]]) -> int:
            out = model.generate_batch(batch, generation_config=settings, progress_bar=False)
            return sum(len(answer.generated_tokens) for answer in out.values())

        for name, work in (("generate", whole_batch), ("continuous batching", continuous)):
            for concurrency in self.a.concurrency:
                batch = prompts(concurrency, self.a.input_tokens)
                work(batch)
                started = time.perf_counter()
                produced = work(batch)
                rate = produced / (time.perf_counter() - started)
                self.row(
                    "sweep", peer=f"transformers-{str(dtype).removeprefix('torch.')}, {name}", concurrency=concurrency,
                    out_tok_s=round(rate, 1),
                )

    def prefix(self) -> None:
        """First token of a 1,500-token prompt: nothing cached, 1,400 tokens in memory, and on disk after a restart."""
        shared, tails = prompts(1, 1400, seed=5)[0], prompts(8, 100, seed=6)
        with tempfile.TemporaryDirectory() as folder:
            config = {"prefix_dir": Path(folder)}
            for quantization in self.a.quantization:

                def first_token(core: EngineCore, prompt: list[int]) -> float:
                    run_once(core, self.recorder, [prompt], 1)
                    usage = self.recorder.finished["r0"].usage
                    return (usage.first_token - usage.arrival) * 1000

                core = self.engine(quantization, config=config, prefix_cache=True)
                first_token(core, prompts(1, 1500, seed=4)[0])
                cold = min(first_token(core, p) for p in prompts(3, 1500, seed=7))
                first_token(core, shared + tails[0])
                warm = min(first_token(core, shared + tail) for tail in tails[1:4])
                cached = self.recorder.finished["r0"].usage.cached_tokens
                core.close()
                disk: list[float] = []
                for tail in tails[4:7]:
                    again = self.engine(quantization, config=config, prefix_cache=True)
                    first_token(again, prompts(1, 200, seed=len(disk))[0])
                    disk.append(first_token(again, shared + tail))
                    restored = again.stats(0).disk_tokens
                    again.close()
                self.row(
                    "prefix", variant=core.decoder.variant, uncached_ms=round(cold, 1), memory_ms=round(warm, 1),
                    disk_ms=round(min(disk), 1), memory_share=round(warm / cold, 3),
                    disk_share=round(min(disk) / cold, 3), cached_tokens=cached, restored_tokens=restored,
                )

    def decode_steps(
        self, core: EngineCore, batch: list[list[int]], states: dict[str, dict[str, Any]], rounds: int = 4
    ) -> dict[str, float]:
        """Median milliseconds of a decode step under each state of the switches, in turns over the same sequences."""
        self.recorder.clear()
        for i, prompt in enumerate(batch):
            # Patient ones, so that prompts are read at full speed beside those that decode already.
            core.add(Generate(f"r{i}", prompt, SamplingParams(max_tokens=400, ignore_eos=True), path=BATCH))
        while core.scheduler.waiting[BATCH] or any(seq.remaining > 1 for seq in core.scheduler.running):
            core.step()
        seconds: dict[str, list[float]] = {name: [] for name in states}
        for _ in range(rounds):
            for name, changes in states.items():
                core.set_switches(core.switches.updated(changes))
                core.step()
                for _ in range(5):
                    began = time.perf_counter()
                    core.step()
                    seconds[name].append(time.perf_counter() - began)
        for i in range(len(batch)):
            core.abort(f"r{i}")
        return {name: round(1000 * statistics.median(values), 2) for name, values in seconds.items()}

    def long(self) -> None:
        """Decoding behind long contexts: top-K sparse, a prefix that all have in common, pages in 8 bits."""
        dense: dict[str, Any] = {"sparse_attention": False}
        sparse: dict[str, Any] = {"sparse_attention": True, "sparse_keep_percent": 25}
        for quantization in self.a.quantization:
            core = self.engine(quantization, config={"kv_cache_bytes": 4 << 30})
            for context, count in ((1000, 32), (4000, 8)):
                batch = prompts(count, context, seed=context)
                at: dict[str, Any] = {"variant": core.decoder.variant, "context": context, "sequences": count}
                core.set_switches(core.switches.updated({"kv_cache": "auto"}))
                steps = self.decode_steps(core, batch, {"off": dense, "on": sparse})
                self.row("sparse attention, 25 %", **at, **_with_ratio(steps))
                core.set_switches(core.switches.updated({**dense, "kv_cache": "int8"}))
                small = self.decode_steps(core, batch, {"on": {}})
                self.row("8-bit pages", **at, **_with_ratio({"off": steps["off"], **small}))
            shared = prompts(1, 1000, seed=9)[0]
            batch = [shared + tail for tail in prompts(32, 30, seed=10)]
            core.set_switches(core.switches.updated({"prefix_cache": True, "kv_cache": "auto"}))
            run_once(core, self.recorder, [shared], 1)
            states = {name: {"shared_prefix_attention": name == "on"} for name in ("off", "on")}
            steps = self.decode_steps(core, batch, states)
            self.row("shared prefix", variant=core.decoder.variant, context=1000, sequences=32, **_with_ratio(steps))
            del core

    def mixed(self) -> None:
        """A 4,000-token prompt arrives while others receive their answers: how long their tokens wait meanwhile."""
        for quantization in self.a.quantization:
            core = self.engine(quantization)
            for users in (1, 4, 16):
                for chunked in (False, True):
                    core.set_switches(core.switches.updated({"chunked_prefill": chunked}))
                    figures = [self.beside(core, users, seed) for seed in range(2)][-1]  # the first finds the pace
                    self.row(
                        "long prompt beside others", variant=core.decoder.variant, users=users,
                        chunked_prefill=chunked, **figures,
                    )
            del core

    def beside(self, core: EngineCore, users: int, seed: int) -> dict[str, float]:
        """Gaps between the tokens of `users` while a 4,000-token prompt is read, against those before."""
        self.recorder.clear()
        for i, prompt in enumerate(prompts(users, 64, seed=users)):
            core.add(Generate(f"u{i}", prompt, SamplingParams(max_tokens=2500, ignore_eos=True)))
        while len(self.recorder.tokens) < users or len(self.recorder.tokens["u0"]) < 60:
            core.step()
        arrived = time.perf_counter()
        core.add(Generate("long", prompts(1, 4000, seed=seed)[0], SamplingParams(max_tokens=2, ignore_eos=True)))
        while "long" not in self.recorder.times:
            core.step()
        ready = self.recorder.times["long"][0]
        for _ in range(60):
            core.step()
        for i in range(users):
            core.abort(f"u{i}")
        drain(core)
        usual: list[float] = []
        gaps: list[float] = []
        for i in range(users):
            for before, after in itertools.pairwise(self.recorder.times[f"u{i}"]):
                (gaps if before < ready and after > arrived else usual).append(after - before)
        normal = statistics.median(usual)  # of as many tokens before as after: answers grow meanwhile
        return {
            "usual_ms": round(normal * 1000, 2),
            **{f"p{p}_ratio": round(percentile(gaps, p / 100) / normal, 2) for p in (50, 95, 99)},
            "long_ttft_s": round(ready - arrived, 2),
        }

    def speculation(self) -> None:
        """Answers that quote, one user, greedy: "copy the following text" over every section of the samples."""
        from backend.models.text import TextModel

        text = TextModel(resolve(self.a.model, self.a.cache_dir))
        batch = []
        for section in sample_sections():
            body = section.split("\n", 1)[1].strip()
            question = f"Copy the following text exactly.\n\n{body}"
            batch.append((text.encode_chat([{"role": "user", "content": question}]), len(text.encode(body))))
        for quantization in self.a.quantization:
            core = self.engine(quantization)
            outputs: dict[str, list[list[int]]] = {}

            def quote(core: EngineCore = core, outputs: dict[str, list[list[int]]] = outputs) -> float:
                seconds, tokens = 0.0, []
                for prompt, length in batch:
                    run_once(core, self.recorder, [prompt], length)
                    times = self.recorder.times["r0"]
                    seconds += times[-1] - times[0]
                    tokens.append(self.recorder.tokens["r0"])
                outputs[core.switches.speculation] = tokens
                return seconds

            result = self.compare(core, {"speculation": "off"}, {"speculation": "ngram"}, quote)
            same = outputs["off"] == outputs["ngram"]
            self.row("speculation", variant=core.decoder.variant, same_tokens=same, **result)
            del core

    def chunks(self) -> None:
        """Passages read before, in another order behind another question: first token, and how the answers differ."""
        from backend.models.text import TextModel

        text = TextModel(resolve(self.a.model, self.a.cache_dir))
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
                self.recorder.clear()
                sampling = SamplingParams(max_tokens=24, ignore_eos=True)
                core.add(Generate("r0", ids, sampling, segments=segments))
                drain(core)
                usage = self.recorder.finished["r0"].usage
                first.append(usage.first_token - usage.arrival)
                out.append(self.recorder.tokens["r0"])
            return out, statistics.median(first) * 1000

        for quantization in self.a.quantization:
            core = self.engine(quantization)
            answers(core, requests[:2])
            exact, plain_ms = answers(core, requests[8:])
            for percent in (0, 10, 20, 40):
                core.set_switches(core.switches.updated({"chunk_reuse": False}))
                core.set_switches(core.switches.updated({"chunk_reuse": True, "chunk_recompute_percent": percent}))
                answers(core, requests[:8])  # every passage is read once
                moved, reused_ms = answers(core, requests[8:])
                same = [[a == b for a, b in zip(x, y, strict=True)] for x, y in zip(moved, exact, strict=True)]
                self.row(
                    "passages elsewhere", variant=core.decoder.variant, read_again_percent=percent,
                    off_ms=round(plain_ms, 1), on_ms=round(reused_ms, 1), ratio=round(plain_ms / reused_ms, 2),
                    first_token_same=round(statistics.fmean(row[0] for row in same), 3),
                    tokens_same=round(statistics.fmean(x for row in same for x in row), 3),
                )
            del core

    def batching(self) -> None:
        """How requests share steps: 48 answers of 16 to 256 tokens at once, and urgent ones behind patient ones."""
        rng = random.Random(12)
        batch = prompts(48, 64, seed=12)
        lengths = [rng.randint(16, 256) for _ in batch]

        def answer(core: EngineCore, count: int = 48) -> float:
            self.recorder.clear()
            started = time.perf_counter()
            for i, (prompt, length) in enumerate(zip(batch[:count], lengths[:count], strict=True)):
                core.add(Generate(f"r{i}", prompt, SamplingParams(max_tokens=length, ignore_eos=True)))
            drain(core)
            return time.perf_counter() - started

        def urgent(core: EngineCore) -> float:
            """Median seconds to the first token of eight requests that come while 64 patient ones are answered."""
            self.recorder.clear()
            for i, prompt in enumerate(prompts(64, 64, seed=13)):
                core.add(Generate(f"p{i}", prompt, SamplingParams(max_tokens=100, ignore_eos=True), path=BATCH))
            arrived: dict[str, float] = {}
            for i, prompt in enumerate(prompts(8, 64, seed=14)):
                for _ in range(10):
                    core.step()
                arrived[f"u{i}"] = time.perf_counter()
                core.add(Generate(f"u{i}", prompt, SamplingParams(max_tokens=8, ignore_eos=True)))
            drain(core)
            return statistics.median(self.recorder.times[name][0] - at for name, at in arrived.items())

        few = {"max_batch": 16}
        for quantization in self.a.quantization:
            core = self.engine(quantization)
            rows: tuple[tuple[str, dict[str, Any], dict[str, Any], Callable[[], float]], ...] = (
                ("in-flight batching", {**few, "in_flight_batching": False}, {"in_flight_batching": True},
                 partial(answer, core)),
                ("batches of 12 for one at a time", {"max_batch": 1}, {"max_batch": 64}, partial(answer, core, 12)),
                ("urgent before patient, first token", {**few, "dual_path": False}, {"dual_path": True},
                 partial(urgent, core)),
            )  # fmt: skip
            for name, off, on, work in rows:
                self.row(name, variant=core.decoder.variant, **self.compare(core, off, on, work))
            del core

    def embedding(self) -> None:
        """Chunks of 200 tokens a second: by torch in the working dtype, by the kernels in 16 and 8 bits."""
        folder, cpu, lengths = resolve(packaged.EMBEDDING_MODEL, self.a.cache_dir), torch.device("cpu"), [200] * 64
        torch.set_num_threads(EngineConfig("", Path(), threads=self.a.threads).thread_count())
        kernels = load_cpu_kernels(self.a.cache_dir)
        peaks = measure(kernels)
        self.machine(peaks)
        rng = random.Random(0)
        chunks = [[rng.randint(1000, 29_000) for _ in range(length)] for length in lengths]
        encoders = {
            "torch": Encoder(folder, cpu),
            "16 bits": Encoder(folder, cpu, kernels, quantize=False),
            "8 bits": Encoder(folder, cpu, kernels),
        }
        best: dict[str, float] = {}
        for name, encoder in itertools.chain.from_iterable([encoders.items()] * 6):  # in turns
            started = time.perf_counter()
            encoder.embed(chunks)
            best[name] = min(best.get(name, 1e9), time.perf_counter() - started)
        for (name, encoder), bits in zip(encoders.items(), (None, 16, 8), strict=True):
            figures: dict[str, Any] = {"chunks_per_s": round(len(chunks) / best[name], 1)}
            if bits in peaks.operations and encoder.precision.startswith("kernel"):
                products, attention = encoder.shape.operations(lengths)
                least = products / peaks.operations[bits] + attention / peaks.operations[16]
                figures["share_of_limit"] = round(least / best[name], 3)
            self.row("embedding", how=name, precision=encoder.precision, tokens=200, **figures)

    def memory(self) -> None:
        """64 sequences of 2,000 tokens: their pages, and what of them is empty; then 10,000 short requests."""
        core = self.engine(self.a.quantization[0], config={"kv_cache_bytes": 4 << 30})
        batch = prompts(64, 1650, seed=3)
        for i, prompt in enumerate(batch):  # patient and long enough to be all there at once
            core.add(Generate(f"r{i}", prompt, SamplingParams(max_tokens=350, ignore_eos=True), path=BATCH))
        used = tokens = 0
        while core.has_work:
            core.step()
            if core.cache.used > used:
                used, tokens = core.cache.used, sum(seq.computed for seq in core.scheduler.running)
        self.row(
            "64 sequences of 2,000 tokens", pages_gb=round(used * core.attention.block_bytes / 1e9, 2),
            waste=round(1 - tokens / (used * BLOCK_SIZE), 4), preemptions=core.scheduler.preemptions,
        )
        del core
        core = self.engine(self.a.quantization[0], prefix_cache=True)
        rng, marks = random.Random(0), []
        for start in range(0, 10_000, 250):
            self.recorder.clear()
            for i in range(start, start + 250):
                prompt = [rng.randint(FIRST_ID, LAST_ID) for _ in range(rng.randint(2, 24))]
                core.add(Generate(f"s{i}", prompt, SamplingParams(max_tokens=2, ignore_eos=True)))
            drain(core)
            if (start + 250) % 2500 == 0:
                marks.append(round(self.process.memory_info().rss / 2**20, 1))
        core.cache.check([])
        self.row("10,000 short requests", memory_after_each_2500_mb=marks)

    def peers(self) -> None:
        """OpenVINO GenAI and vLLM on the same workload, by the script given."""
        for peer in ("openvino", "vllm"):
            command = ["bash", str(self.a.peers), peer, *map(str, self.a.concurrency)]
            result = subprocess.run(command, capture_output=True, text=True)
            lines = [line for line in result.stdout.splitlines() if line.startswith('{"peer"')]
            if not lines:
                raise RuntimeError(f"{peer} gave no figures: {result.stderr[-500:]}")
            for line in lines:
                print(json.dumps({"workload": "sweep", **json.loads(line)}), flush=True)


def _with_ratio(steps: dict[str, float]) -> dict[str, float]:
    return {"off_ms": steps["off"], "on_ms": steps["on"], "ratio": round(steps["off"] / steps["on"], 2)}


WORKLOADS = (
    "sweep", "baseline", "transformers", "prefix", "long", "mixed", "batching", "speculation", "chunks", "embedding",
    "memory",
)  # fmt: skip


def main() -> None:
    """Parse arguments, run the workloads, print one JSON line per row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=["sweep"])
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 16, 32])
    parser.add_argument("--input-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--quantization", nargs="+", default=["auto"], help="auto, fp32, bf16, int8, mixed, …")
    parser.add_argument("--model", default=packaged.CHAT_MODEL)
    parser.add_argument("--max-batch", type=int, default=64)
    parser.add_argument("--token-budget", type=int, default=EngineConfig.token_budget)
    parser.add_argument("--kv-cache-mb", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--no-kernels", action="store_true", help="the portable torch path")
    parser.add_argument("--peers", type=Path, help="a script that measures peers: SCRIPT openvino|vllm CONCURRENCY …")
    parser.add_argument(
        "--cache-dir", type=Path, default=Path(os.environ.get("TENFOLD_DATA_DIR", "data/var")) / "cache"
    )
    bench = Bench(parser.parse_args())
    for workload in bench.a.workloads:
        getattr(bench, workload)()
    if bench.a.peers is not None:
        bench.peers()


if __name__ == "__main__":
    main()
