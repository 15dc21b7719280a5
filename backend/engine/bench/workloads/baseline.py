"""What everything is held against."""

from __future__ import annotations

import time

import torch

from backend.engine.bench.recorder import prompts
from backend.engine.bench.sitting import Sitting


def run(sitting: Sitting) -> None:
    """Transformers' `generate` in fp32, one request at a time, threads pinned: what everything is held against."""
    model = sitting.reference(torch.device("cpu"), torch.float32)
    seconds = []
    for prompt in prompts(3, sitting.a.input_tokens):
        ids = torch.tensor([prompt])
        started = time.perf_counter()
        model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=sitting.a.output_tokens, do_sample=False
        )
        seconds.append(time.perf_counter() - started)
    rate = sitting.a.output_tokens / min(seconds[1:])
    sitting.row("baseline", peer="transformers-fp32-generate", concurrency=1, out_tok_s=round(rate, 1))
