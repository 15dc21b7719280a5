"""The embedding model alone."""

from __future__ import annotations

import itertools
import random
import time
from pathlib import Path
from typing import Any

import torch

from backend import packaged
from backend.engine.bench.machine import measure
from backend.engine.bench.sitting import Sitting
from backend.engine.config import EngineConfig
from backend.engine.embedding.encoder import Encoder
from backend.engine.kernels.build import load_cpu_kernels
from backend.models.checkpoint import resolve


def run(sitting: Sitting) -> None:
    """Chunks of 200 tokens a second: by torch in the working dtype, by the kernels in 16 and 8 bits."""
    folder, cpu, lengths = resolve(packaged.EMBEDDING_MODEL, sitting.a.cache_dir), torch.device("cpu"), [200] * 64
    torch.set_num_threads(EngineConfig("", Path(), threads=sitting.a.threads).thread_count())
    kernels = load_cpu_kernels(sitting.a.cache_dir)
    peaks = measure(kernels)
    sitting.machine(peaks)
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
        sitting.row("embedding", how=name, precision=encoder.precision, tokens=200, **figures)
