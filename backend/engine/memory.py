"""Memory: how much there is for the KV cache, and huge pages for what the CPU reads at every step.

With those, address translation does not limit bandwidth. Anonymous mappings: zero, resident only once touched, given
back when the last tensor over them is gone.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from pathlib import Path

import psutil
import torch

CHUNK = 64 << 20
ALIGNMENT = 64
ON_A_PROCESSOR = 1 << 30
LEFT_FREE = 0.1
"""Of a GPU's memory, for what a step computes beside weights and pages."""


def kv_cache_bytes(asked: int | None, device: torch.device) -> int:
    """Bytes for the KV cache: what is asked for, else 1 GiB; on a GPU what is free beside the weights, but a tenth."""
    if asked is not None:
        return asked
    if device.type != "cuda":
        return ON_A_PROCESSOR
    free, total = torch.cuda.mem_get_info(device)
    return max(0, int(free - LEFT_FREE * total))


def available() -> int:
    """Bytes that this process may still take: of the machine, and of the control group that holds it (a container)."""
    free = int(psutil.virtual_memory().available)
    for most, used in (
        ("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")
    ):  # fmt: skip
        with contextlib.suppress(OSError, ValueError):  # "max", or no such file
            root = Path("/sys/fs/cgroup")
            free = min(free, int((root / most).read_text()) - int((root / used).read_text()))
    return free


def zeros(count: int, dtype: torch.dtype) -> torch.Tensor:
    """A one-dimensional tensor of zeros that takes no memory until it is written."""
    size = count * torch.empty(0, dtype=dtype).element_size()
    mapping = mmap.mmap(-1, max(size, mmap.PAGESIZE))
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            mapping.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(mapping, dtype=dtype, count=count)


class Arena:
    """Hands out pieces of large mappings, one after the other; for tensors that live and die together."""

    def __init__(self) -> None:
        self._chunk: torch.Tensor | None = None
        self._used = 0

    def empty(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """A one-dimensional tensor of `count` elements, aligned for vector loads."""
        size = count * torch.empty(0, dtype=dtype).element_size()
        padded = math.ceil(size / ALIGNMENT) * ALIGNMENT
        if self._chunk is None or self._used + padded > len(self._chunk):
            self._chunk = zeros(max(CHUNK, padded), torch.uint8)
            self._used = 0
        piece = self._chunk[self._used : self._used + size]
        self._used += padded
        return piece.view(dtype)
