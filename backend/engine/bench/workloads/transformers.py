"""The library on the same device, beside the sweep."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from backend.engine.bench.recorder import prompts
from backend.engine.bench.sitting import Sitting
from backend.engine.config import EngineConfig
from backend.engine.quantization.linear import working_dtype


def run(sitting: Sitting) -> None:
    """Transformers on the same device and in the working dtype: `generate` on a batch, and continuous batching."""
    from transformers import GenerationConfig

    device = torch.device(EngineConfig("", Path(), device=sitting.a.device).device_type())
    dtype = working_dtype(device)
    model = sitting.reference(device, dtype)
    count = sitting.a.output_tokens
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
        for concurrency in sitting.a.concurrency:
            batch = prompts(concurrency, sitting.a.input_tokens)
            work(batch)
            started = time.perf_counter()
            produced = work(batch)
            rate = produced / (time.perf_counter() - started)
            sitting.row(
                "sweep", peer=f"transformers-{str(dtype).removeprefix('torch.')}, {name}", concurrency=concurrency,
                out_tok_s=round(rate, 1),
            )
