"""Records work on CUDA as graphs that are replayed by one launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

WARM_UPS = 3

Work = Callable[[], torch.Tensor]
Recorder = Callable[[Work], tuple[Callable[[], None], torch.Tensor]]
"""Records work; gives what does it again, and where its result lies then."""


def cuda_recorder(device: torch.device) -> Recorder:
    """Records CUDA graphs that share one pool of memory."""
    pool: list[Any] = []

    def record(work: Work) -> tuple[Callable[[], None], torch.Tensor]:
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                work()
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool[0] if pool else None):
            result = work()
        pool[:] = [graph.pool()]
        return graph.replay, result

    return record
