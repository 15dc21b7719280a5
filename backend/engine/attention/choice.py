"""Which attention serves on a GPU: each is tried with real calls and held against the plain one.

Of those that are right the fastest is taken.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from backend.engine.attention.base import AttentionShape, Batch, NewTokens, PagedAttention, make_batch
from backend.engine.attention.flash import VarlenAttention, leave_to_torch
from backend.engine.attention.gather import GatherAttention
from backend.engine.config import blocks_for
from backend.engine.cuda.recording import cuda_recorder

log = logging.getLogger("tenfold.engine")

TRITON = "our Triton kernels over block tables"
Make = Callable[[AttentionShape, torch.dtype, torch.device], GatherAttention]

TRIALS = ((40, 0), (17, 83), (1, 32)), ((1, 0), (1, 699), (1, 2000))
"""Two steps that are tried before an attention is trusted: new tokens and tokens before them, of each sequence."""
TRIAL_TOLERANCE = {torch.float32: 0.001}
"""Largest absolute difference of attention over random values of about 1; 0.05 where it is computed in 16 bits."""
TIMED = ((1, 999),) * 16
"""The step that is timed: 16 sequences of 1,000 tokens decode."""
REPEATS = 20


@dataclass(frozen=True, slots=True)
class TriedAttention:
    """One of them: its name, milliseconds of the timed step in one layer, or why it cannot be used here."""

    name: str
    milliseconds: float
    problem: str = ""


def _triton(shape: AttentionShape, dtype: torch.dtype, device: torch.device) -> GatherAttention:
    from backend.engine.attention.triton import TritonAttention  # Triton is not everywhere

    return TritonAttention(shape, dtype, device)


CANDIDATES: tuple[tuple[str, Make], ...] = (
    (VarlenAttention.name, VarlenAttention),
    (TRITON, _triton),
    (GatherAttention.name, GatherAttention),
)


def choose_gpu_attention(
    shape: AttentionShape, dtype: torch.dtype, device: torch.device,
    candidates: tuple[tuple[str, Make], ...] = CANDIDATES,
) -> tuple[PagedAttention, list[TriedAttention]]:  # fmt: skip
    """The fastest attention that gives right results on this device, and what was tried.

    Args:
        shape: of the model.
        dtype: of activations.
        device: where it runs.
        candidates: by name; the last is the plain one, which the others are held against.
    """
    make, tried = _chosen(shape, dtype, device, candidates)
    return make(shape, dtype, device), tried


@functools.cache
def _chosen(
    shape: AttentionShape, dtype: torch.dtype, device: torch.device, candidates: tuple[tuple[str, Make], ...]
) -> tuple[Make, list[TriedAttention]]:
    tried, best, least = [], candidates[-1][1], float("inf")
    for name, make in candidates:
        try:
            milliseconds = _try(shape, dtype, device, make, candidates[-1][1])
        except Exception as error:  # whatever a library or a driver says to it, there is another way
            log.warning("%s cannot be used", name, exc_info=True)
            problem = str(error).splitlines()[0] if str(error) else type(error).__name__
            tried.append(TriedAttention(name, 0.0, problem))
            continue
        tried.append(TriedAttention(name, milliseconds))
        if milliseconds < least:
            best, least = make, milliseconds
    if best is not VarlenAttention:
        leave_to_torch()
    log.info("attention: %s", "; ".join(f"{t.name}: {t.problem or f'{t.milliseconds:.2f} ms'}" for t in tried))
    return best, tried


@torch.inference_mode()
def _try(shape: AttentionShape, dtype: torch.dtype, device: torch.device, make: Make, plainest: Make) -> float:
    """Milliseconds of the timed step.

    Raises:
        ValueError: its results differ from the plain one's.
    """
    one = AttentionShape(1, shape.heads, shape.kv_heads, shape.head_size)
    plain, tried = plainest(one, dtype, device), make(one, dtype, device)
    random = torch.Generator().manual_seed(0)
    for step in TRIALS:
        batch, blocks, qkv, angles = _made_up(one, step, dtype, device, random)
        for attention in (plain, tried):
            attention.allocate(blocks)
        plain.pages.copy_(torch.randn(plain.pages.shape, generator=random).to(dtype))
        tried.pages.copy_(plain.pages)
        results = []
        for attention in (plain, tried):
            attention.prepare(batch)
            results.append(attention.forward(0, qkv.clone(), batch, angles.cos(), angles.sin(), rotate=True).float())
        worst = float((results[0] - results[1]).abs().max())
        if not worst <= TRIAL_TOLERANCE.get(dtype, 0.05):  # so that no number is a difference too
            raise ValueError(f"its results differ by {worst:.3g} from plain attention's")
    batch, blocks, qkv, angles = _made_up(one, TIMED, dtype, device, random)
    tried.allocate(blocks)
    tried.prepare(batch)
    cosine, sine = angles.cos(), angles.sin()

    def timed() -> torch.Tensor:
        return tried.forward(0, qkv, batch, cosine, sine, rotate=True)

    timed()  # the first one compiles
    again: Callable[[], object] = timed
    if device.type == "cuda" and tried.capturable:  # as it will serve: not bound by what launching takes
        again, _ = cuda_recorder(device)(timed)
    _wait(device)
    started = time.perf_counter()
    for _ in range(REPEATS):
        again()
    _wait(device)
    return (time.perf_counter() - started) * 1000 / REPEATS


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _made_up(
    shape: AttentionShape, step: tuple[tuple[int, int], ...], dtype: torch.dtype, device: torch.device,
    random: torch.Generator,
) -> tuple[Batch, int, torch.Tensor, torch.Tensor]:  # fmt: skip
    """A batch whose sequences own shuffled blocks, how many blocks there are, a fused projection, and angles."""
    needed = [blocks_for(new + past) for new, past in step]
    order = torch.randperm(sum(needed), generator=random)
    parts = [
        NewTokens([0] * new, range(past, past + new), blocks.int().numpy())
        for (new, past), blocks in zip(step, order.split(needed), strict=True)
    ]
    batch = make_batch(parts, [], device)
    width = (shape.heads + 2 * shape.kv_heads) * shape.head_size
    qkv = torch.randn(len(batch.positions), width, generator=random).to(device, dtype)
    angles = torch.rand(batch.max_context, shape.head_size // 2, generator=random).to(device)
    return batch, sum(needed), qkv, angles
