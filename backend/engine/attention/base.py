"""What every attention has in common: a step's batch, and the protocol that the decoder and the caches speak.

A batch is flattened tokens plus block tables, so sharing a prefix is two tables naming the same block, whatever the
device. What is the same for all layers is prepared once a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from backend.engine.config import BLOCK_SIZE, blocks_for


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """Layers, query heads, KV heads and head size of a model."""

    layers: int
    heads: int
    kv_heads: int
    head_size: int


@dataclass(slots=True)
class Batch:
    """One step's tokens, flattened over its sequences.

    Attributes:
        token_ids: int64 [tokens].
        positions: int64 [tokens], each token's place in its own sequence.
        slots: int64 [tokens], block × 16 + offset, where its key and value go.
        query_starts: int32 [sequences + 1], prefix sums of the new tokens per sequence.
        context_lens: int32 [sequences], tokens in the cache once this step's are written.
        tables: int32 [sequences, blocks], block tables.
        max_query: most new tokens of one sequence.
        max_context: longest context.
        last: int64 [rows], those whose logits are wanted.
        metadata: what the attention that is used made of all this in `prepare`.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    query_starts: torch.Tensor
    context_lens: torch.Tensor
    tables: torch.Tensor
    max_query: int
    max_context: int
    last: torch.Tensor
    metadata: object = None


@dataclass(frozen=True, slots=True)
class NewTokens:
    """What a step computes of one sequence.

    Attributes:
        token_ids: to be computed, in order.
        positions: of each in its sequence, ascending.
        blocks: int32, the sequence's block table, at least up to the last position.
    """

    token_ids: Sequence[int]
    positions: Sequence[int] | np.ndarray
    blocks: np.ndarray


def in_one_copy(arrays: dict[str, np.ndarray], device: torch.device) -> dict[str, torch.Tensor]:
    """Arrays as tensors on a device: side by side in pinned memory, brought there by one copy that nobody waits for."""
    begins = np.cumsum([0, *(-(-array.nbytes // 16) * 16 for array in arrays.values())]).tolist()
    staging = torch.empty(begins[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
    for begin, array in zip(begins, arrays.values(), strict=False):
        staging[begin : begin + array.nbytes] = torch.from_numpy(array.reshape(-1).view(np.uint8))
    there = staging.to(device, non_blocking=True)
    out = {}
    for begin, (name, array) in zip(begins, arrays.items(), strict=False):
        dtype = torch.from_numpy(array).dtype
        out[name] = there[begin : begin + array.nbytes].view(dtype).view(array.shape)
    return out


def make_batch(parts: Sequence[NewTokens], last: list[int], device: torch.device) -> Batch:
    """Flatten the new tokens of several sequences into one batch.

    Args:
        parts: of each sequence.
        last: rows of the batch whose logits are wanted.
        device: where the batch goes.
    """
    counts = np.array([len(part.positions) for part in parts], dtype=np.int64)
    starts = np.zeros(len(parts) + 1, dtype=np.int32)
    np.cumsum(counts, out=starts[1:])
    total = int(starts[-1])
    token_ids, positions = np.empty(total, dtype=np.int64), np.empty(total, dtype=np.int64)
    for part, begin, end in zip(parts, starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        token_ids[begin:end] = part.token_ids
        positions[begin:end] = part.positions
    contexts = positions[starts[1:] - 1] + 1
    width = blocks_for(int(contexts.max()))
    tables = np.zeros((len(parts), width), dtype=np.int32)
    for i, part in enumerate(parts):
        held = part.blocks[:width]
        tables[i, : len(held)] = held
    owner = np.repeat(np.arange(len(parts)), counts)
    slots = tables[owner, positions // BLOCK_SIZE].astype(np.int64) * BLOCK_SIZE + positions % BLOCK_SIZE
    arrays = {
        "token_ids": token_ids, "positions": positions, "slots": slots, "query_starts": starts,
        "context_lens": contexts.astype(np.int32), "tables": tables, "last": np.array(last, dtype=np.int64),
    }  # fmt: skip
    if device.type == "cpu":
        there = {name: torch.from_numpy(array) for name, array in arrays.items()}
    else:
        there = in_one_copy(arrays, device)
    return Batch(**there, max_query=int(counts.max()), max_context=int(contexts.max()))


def one_sequence(token_ids: list[int], last: list[int], start: int = 0) -> Batch:
    """A batch of one sequence on the CPU, in blocks 0, 1, 2 and so on.

    Args:
        token_ids: to be computed.
        last: rows whose logits are wanted.
        start: position of the first of them; what stands before is in the cache already.
    """
    end = start + len(token_ids)
    part = NewTokens(token_ids, range(start, end), np.arange(blocks_for(end), dtype=np.int32))
    return make_batch([part], last, torch.device("cpu"))


@dataclass(frozen=True, slots=True)
class PageSelection:
    """Which pages a decode step reads, and how; may change between steps.

    Attributes:
        keep_percent: top-K sparse attention reads this share of a sequence's pages; 100 reads all.
        share_pages: pages that several sequences of a batch name are read once for all of them. Exact.
    """

    keep_percent: int = 100
    share_pages: bool = True


Rotation = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines, [head_size / 2] each, of the angles that keys are rotated by."""


class PagedAttention(Protocol):
    """Owns the page tensors of every layer; writes new keys and values and attends over block tables."""

    name: str
    scattered: bool  # whether a step's tokens of one sequence may leave positions out
    capturable: bool  # whether a CUDA graph can record it
    block_bytes: int
    selection: PageSelection

    def allocate(self, blocks: int) -> None:
        """Reserve pages for `blocks` blocks in every layer."""
        ...

    def prepare(self, batch: Batch) -> None:
        """Make what all layers need to know of a step, once, before the first `forward` with its batch."""
        ...

    def forward(
        self, layer: int, qkv: torch.Tensor, batch: Batch, cosine: torch.Tensor, sine: torch.Tensor, *, rotate: bool
    ) -> torch.Tensor:
        """Rotate, write and attend.

        Args:
            layer: index of the layer.
            qkv: [tokens, (heads + 2 kv_heads) × head_size], already normalized where the family does so.
            batch: the step, prepared.
            cosine: float32 [positions, head_size / 2].
            sine: float32 [positions, head_size / 2].
            rotate: False for layers without positional encoding.

        Returns:
            [tokens, heads × head_size] in the dtype of `qkv`.
        """
        ...

    def read_block(self, block: int) -> bytes:
        """Copy a block of all layers, `block_bytes` long."""
        ...

    def write_block(self, block: int, data: bytes | memoryview) -> None:
        """Put back what `read_block` gave."""
        ...

    def read_tokens(self, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of some tokens, float32 [layers, tokens, kv_heads, head_size] each."""
        ...

    def write_tokens(
        self,
        slots: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        rotation: Rotation | None,
        unrotated: frozenset[int],
    ) -> None:
        """Write what `read_tokens` gave into other slots.

        Args:
            slots: int64 [tokens].
            keys: float32 [layers, tokens, kv_heads, head_size].
            values: the same.
            rotation: what to rotate the keys by; None keeps them.
            unrotated: layers without positional encoding.
        """
        ...
