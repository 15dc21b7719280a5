"""One sitting of the bench: engines made from the same arguments, and rows printed as they come."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

from backend.engine.bench.machine import Peaks
from backend.engine.bench.recorder import Recorder
from backend.engine.config import EngineConfig
from backend.engine.core import EngineCore
from backend.engine.switches import Switches
from backend.models.checkpoint import resolve

PLAIN = {"prefix_cache": False, "speculation": "off"}


class Sitting:
    """The arguments, and what every workload does with them."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.a = arguments
        self.recorder = Recorder()
        self.process = psutil.Process()

    def engine(self, quantization: str, *, config: dict[str, Any] | None = None, **switches: Any) -> EngineCore:
        """A fresh engine; with "auto" weights it serves what these come to on this machine, as a user gets it."""
        core = EngineCore(
            EngineConfig(
                model=self.a.model, cache_dir=self.a.cache_dir, device=self.a.device, threads=self.a.threads,
                token_budget=self.a.token_budget, use_kernels=not self.a.no_kernels, measure_precision=True,
                **{"kv_cache_bytes": self.a.kv_cache_mb << 20, **(config or {})},
                switches=Switches().updated(
                    {"max_batch": self.a.max_batch, "quantization": quantization, **PLAIN, **switches}
                ),
            ),
            self.recorder,
        )  # fmt: skip
        while core.serving.precision.is_measuring or core.serving.loading or core.has_work:
            time.sleep(max(core.rest() or 0.0, 0.01))
            core.step()
        return core

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
                core.set_switches(core.serving.switches.updated(changes))
                best[state] = min(best.get(state, 1e9), work())
        return {"off": round(best[False], 4), "on": round(best[True], 4), "ratio": round(best[False] / best[True], 2)}

    def machine(self, peaks: Peaks) -> None:
        """What the machine reached in the plainest loops."""
        self.row(
            "machine", read_gb_s=round(peaks.read / 1e9, 1),
            **{f"peak_gop_s_{bits}_bit": round(value / 1e9) for bits, value in peaks.operations.items()},
        )
