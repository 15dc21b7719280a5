"""What an engine is started with. Fixed for the life of the process; what can change is in `switches`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from backend.engine.switches import Switches

BLOCK_SIZE = 16
"""Tokens a KV block holds, on every device."""


def blocks_for(tokens: int) -> int:
    """Blocks that `tokens` tokens take."""
    return -(-tokens // BLOCK_SIZE)


@dataclass(frozen=True)
class EngineConfig:
    """Settings of one engine process.

    Attributes:
        model: folder, hub id, GGUF file or packaged model's name of the language model.
        embedding_model: the same for the embedding model; None serves no embeddings.
        cache_dir: where converted weights and built kernels are kept.
        quantize_embeddings: hold the embedding model in 8 bits where that is faster; see `Encoder`.
        device: "auto", "cpu" or "cuda".
        kv_cache_bytes: size of the paged KV cache; None takes 1 GiB on a processor, where it is resident only when
            touched, and what is free on a GPU but a tenth of it all.
        max_model_len: longest sequence in tokens; None takes the model's own limit.
        token_budget: most tokens one step computes when prefill is chunked; None takes 512 on a processor, 8,192 on a
            GPU.
        threads: torch threads; 0 takes every core.
        prefix_dir: where KV blocks are kept on disk; None keeps none.
        prefix_disk_bytes: most that they take there.
        chunk_cache_bytes: most that states of recurring texts take in memory.
        use_kernels: False forces the portable torch path, which is what the kernels are checked against.
        measure_precision: "auto" weights move to the fastest that passes the quality gate; else they are 16 bits.
        products: what multiplies on a processor: "auto" (what was measured), "tiles" (AMX), "own" or "torch".
        hub_kernels: bitsandbytes may fetch kernels from a hub while it runs; otherwise it never asks anybody.
    """

    model: str
    cache_dir: Path
    embedding_model: str | None = None
    quantize_embeddings: bool = True
    device: str = "auto"
    kv_cache_bytes: int | None = None
    max_model_len: int | None = None
    token_budget: int | None = None
    threads: int = 0
    prefix_dir: Path | None = None
    prefix_disk_bytes: int = 2 << 30
    chunk_cache_bytes: int = 256 << 20
    use_kernels: bool = True
    measure_precision: bool = False
    products: str = "auto"
    hub_kernels: bool = False
    switches: Switches = field(default_factory=Switches)

    def thread_count(self) -> int:
        """Torch threads to run with."""
        if self.threads > 0:
            return self.threads
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def step_tokens(self) -> int:
        """`token_budget`, or what is usual on such a device."""
        return self.token_budget or (8192 if self.device_type() == "cuda" else 512)

    def device_type(self) -> str:
        """`device`, or what "auto" comes to on this machine."""
        if self.device != "auto":
            return self.device
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"
