"""What this machine can do at most, measured: the yardstick that every figure of the bench is held against."""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass

import torch

from backend.engine.attention.cpu import KernelAttention
from backend.engine.config import BLOCK_SIZE
from backend.engine.core import EngineCore
from backend.engine.quantization.kernel import KernelLinear, is_fast

READ_BYTES = 1 << 30


@dataclass(frozen=True)
class Peaks:
    """Bytes read per second, and operations per second of the dot instructions by the bits of the weights."""

    read: float
    operations: dict[int, float]


def measure(kernels: ctypes.CDLL | None) -> Peaks:
    """Measure memory by summing a gigabyte, arithmetic by the instruction that the products are made of."""
    data = torch.ones(READ_BYTES // 8, dtype=torch.int64)
    best = min(_seconds(lambda: data.sum()) for _ in range(3))
    operations = {}
    if kernels is not None and is_fast(kernels):
        for bits in (8, 16):
            operations[bits] = max(float(kernels.tenfold_peak(bits)) for _ in range(2))
    return Peaks(READ_BYTES / best, operations)


def _seconds(work: object) -> float:
    started = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - started


@dataclass(frozen=True)
class StepCost:
    """The least a decode step has to do.

    Attributes:
        read: bytes of weights and of keys and values.
        operations: of the products.
        seconds: the time for that at the machine's peaks: each product by whichever of the two binds it, and the
            reading of keys and values by memory.
    """

    read: float
    operations: float
    seconds: float


class StepCosts:
    """Costs of decode steps of one engine; what depends on the number of sequences alone is worked out once."""

    def __init__(self, core: EngineCore, peaks: Peaks) -> None:
        self._core, self._peaks = core, peaks
        self._products: dict[int, StepCost | None] = {}

    def __call__(self, contexts: list[int]) -> StepCost | None:
        """Cost of a step over sequences of these lengths; None where the products are not our own kernels'."""
        rows, attention = len(contexts), self._core.serving.attention
        if rows not in self._products:
            self._products[rows] = self._of_products(rows)
        products = self._products[rows]
        if products is None or not isinstance(attention, KernelAttention):
            return None
        pages = sum(contexts) * attention.block_bytes / BLOCK_SIZE
        return StepCost(
            products.read + pages, products.operations, products.seconds + pages / self._peaks.read
        )

    def _of_products(self, rows: int) -> StepCost | None:
        decoder, peaks = self._core.serving.decoder, self._peaks
        read = operations = seconds = 0.0
        linears = [linear for layer in decoder.layers for linear in layer.linears().values()]
        for linear in (*linears, decoder.head):
            if not isinstance(linear, KernelLinear) or not peaks.operations:
                return None
            native = linear.native()
            size, work = native.n * native.k * native.bits / 8, 2.0 * native.n * native.k * rows
            read += size
            operations += work
            seconds += max(size / peaks.read, work / peaks.operations[native.bits])
        return StepCost(read, operations, seconds)
