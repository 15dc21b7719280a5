"""Which products serve: every way that there is here is tried on made-up data, held against the plain one, and timed.

One way for all layers and batches, so that a row's result never depends on the rows beside it. Remembered by machine
and build; a second at most where it is not known.
"""

from __future__ import annotations

import ctypes
import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F

from backend.engine.about import TriedProducts
from backend.engine.kernels.build import build_of
from backend.engine.memory import Arena
from backend.engine.quantization.kernel import KernelLinear, serve_own, way
from backend.engine.quantization.linear import DenseLinear, Linear, working_dtype
from backend.engine.quantization.portable import PackedLinear
from backend.engine.remembered import machine_key, recall, remember

log = logging.getLogger("tenfold.engine")

TILES, OWN, TORCH = "tiles", "own", "torch"
"""AMX's tiles in our own products, our own without them, and torch's."""
MOST = 1536
"""Larger sides of a weight are cut to this: what is compared is the way, not the whole."""
ROWS = {1: 64, 8: 64, 128: 8}
"""Rows that are timed, and how often each counts: 128 tokens in and 128 out, at 1 and 8 at once."""
REPEATS = 4
PAYS = 0.9
"""Of our time at most is what torch must take: only ours do all layers in one call."""
MOST_ERROR = {16: 0.01, 8: 0.04}
"""Relative error (Frobenius norm) beyond which a way is wrong."""

Shapes = list[tuple[int, int]]


class WrongResultError(ValueError):
    """A product is not what it should be, and will not be the next time."""


def choose_products(
    kernels: ctypes.CDLL, shapes: Shapes, cache_dir: Path, threads: int, pinned: str = "auto"
) -> tuple[TriedProducts, ...]:
    """Put the fastest right way in force, for this process; returns what was tried, the chosen one first.

    Args:
        kernels: the C++ library.
        shapes: of the model's products, as (out, in).
        cache_dir: where the outcome is remembered.
        threads: of the engine.
        pinned: "tiles", "own" or "torch"; "auto" measures. What is pinned and not there is measured as well.
    """
    shapes = sorted({(min(n, MOST), min(k, MOST)) for n, k in shapes if k % 4 == 0})
    key = machine_key(threads, build_of(kernels), torch.__version__, str(shapes))
    file = cache_dir / "kernels" / f"products-{key}.json"
    tried = _recalled(file)
    if tried is None:
        tried = _try_all(kernels, shapes)
        if not any(one.passes for one in tried):
            remember(file, [asdict(one) for one in tried])
    right = [one for one in tried if not one.problem]
    chosen = next((one for one in right if one.way == pinned), None) or _fastest(right)
    assert chosen is not None, "torch is always there"
    ours = chosen if chosen.way != TORCH else _fastest([one for one in right if one.way != TORCH])
    kernels.tenfold_use_tiles(int(ours is not None and ours.way == TILES))
    serve_own(kernels, 16, own=chosen.way != TORCH)
    # Torch's 8 bits are slower than any of ours by their nature; what is pinned is pinned for both.
    serve_own(kernels, 8, own=ours is not None and pinned != TORCH)
    log.info("products: %s", "; ".join(one.summary() for one in tried))
    return (chosen, *(one for one in tried if one is not chosen))


def _fastest(right: list[TriedProducts]) -> TriedProducts | None:
    """Of ours the one that is fastest in both widths; torch where it is faster than that in 16 bits."""
    ours = min((one for one in right if one.way != TORCH), key=lambda one: one.wide_ms + one.bytes_ms, default=None)
    torchs = next((one for one in right if one.way == TORCH), None)
    if ours is None or torchs is None:
        return ours or torchs
    return torchs if torchs.wide_ms < PAYS * ours.wide_ms else ours


def _recalled(file: Path) -> list[TriedProducts] | None:
    try:
        tried = [TriedProducts(**one) for one in recall(file)]
    except TypeError:
        return None
    return tried if any(one.way == TORCH for one in tried) else None


def _try_all(kernels: ctypes.CDLL, shapes: Shapes) -> list[TriedProducts]:
    candidates = [OWN, TORCH]
    if kernels.tenfold_has_tiles():
        candidates.insert(0, TILES)
    data = [_Data(n, k) for n, k in shapes]
    tried = []
    for name in candidates:
        kernels.tenfold_use_tiles(int(name == TILES))
        label = "torch" if name == TORCH else f"our own, {way(kernels)}"
        try:
            widths = {16: _torchs} if name == TORCH else {16: _ours(kernels, 16), 8: _ours(kernels, 8)}
            times = {bits: sum(one.milliseconds(make, bits) for one in data) for bits, make in widths.items()}
            tried.append(TriedProducts(name, label, times[16], times.get(8, 0.0)))
        except Exception as error:
            log.warning("%s cannot be used here: %s", label, error)
            wrong = isinstance(error, WrongResultError)
            tried.append(TriedProducts(name, label, 0.0, 0.0, str(error) or type(error).__name__, passes=not wrong))
    if all(one.problem for one in tried if one.way == TORCH):  # torch refuses its own: it is what is left all the same
        tried = [one for one in tried if one.way != TORCH] + [TriedProducts(TORCH, "torch", 1e9, 0.0, passes=True)]
    return tried


def _ours(kernels: ctypes.CDLL, bits: int) -> Callable[[torch.Tensor], Linear]:
    return lambda weight: KernelLinear(weight, None, kernels, Arena(), bits=bits, rotates=True)


def _torchs(weight: torch.Tensor) -> Linear:
    dtype = working_dtype(torch.device("cpu"))
    if dtype is torch.bfloat16 and torch.backends.mkldnn.is_available():
        return PackedLinear(weight, None, dtype)
    return DenseLinear(weight.to(dtype), None)


class _Data:
    """Made-up weights of one shape, rows for them, and the plain result."""

    def __init__(self, n: int, k: int) -> None:
        generator = torch.Generator().manual_seed(n * 31 + k)
        self._weight = torch.randn(n, k, generator=generator).bfloat16().float()
        self._rows = torch.randn(max(ROWS), k, generator=generator).bfloat16().float()
        self._plain = F.linear(self._rows, self._weight)

    def milliseconds(self, make: Callable[[torch.Tensor], Linear], bits: int) -> float:
        """Time of all rows, weighted by how often each count of them comes.

        Raises:
            WrongResultError: says by how much.
        """
        linear = make(self._weight)
        total = 0.0
        with torch.inference_mode():
            for rows, count in ROWS.items():
                x = self._rows[:rows]
                if isinstance(linear, PackedLinear):
                    x = x.to(torch.bfloat16)
                wanted = self._plain[:rows]
                error = float((linear(x).float() - wanted).norm() / wanted.norm())
                if not error <= MOST_ERROR[bits]:
                    raise WrongResultError(f"{rows} rows in {bits} bits are {error:.1%} off")
                best = float("inf")
                for _ in range(REPEATS):
                    started = time.perf_counter()
                    linear(x)
                    best = min(best, time.perf_counter() - started)
                total += count * best * 1000
        return total
