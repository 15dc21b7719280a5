"""Attention over the paged KV cache, in place: the C++ kernel on CPU, FlashAttention on CUDA, gather + SDPA elsewhere.

One interface for all: a batch is flattened tokens plus block tables, so sharing a prefix is two tables naming the same
block, whatever the device.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from backend.engine.config import BLOCK_SIZE
from backend.engine.memory import zeros


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """Layers, query heads, KV heads and head size of a model."""

    layers: int
    heads: int
    kv_heads: int
    head_size: int

    @property
    def bytes_per_block(self) -> int:
        """Elements of one block over all layers, keys and values (multiply by the element size)."""
        return self.layers * 2 * self.kv_heads * self.head_size * BLOCK_SIZE


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
        last: int64 [sequences to sample], rows whose logits are wanted.
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


def whole_sequence(ids: list[int], blocks: int, last: torch.Tensor) -> Batch:
    """A batch of one sequence on the CPU, read from its beginning, in blocks 0, 1, 2 and so on."""
    count = len(ids)
    return Batch(
        token_ids=torch.tensor(ids),
        positions=torch.arange(count),
        slots=torch.arange(count),
        query_starts=torch.tensor([0, count], dtype=torch.int32),
        context_lens=torch.tensor([count], dtype=torch.int32),
        tables=torch.arange(blocks, dtype=torch.int32).unsqueeze(0),
        max_query=count,
        max_context=count,
        last=last,
    )


class PagedAttention(Protocol):
    """Owns the page tensors of every layer; writes new keys and values and attends over block tables."""

    name: str

    def allocate(self, blocks: int) -> None:
        """Reserve pages for `blocks` blocks in every layer."""
        ...

    def forward(
        self, layer: int, qkv: torch.Tensor, batch: Batch, cosine: torch.Tensor, sine: torch.Tensor, *, rotate: bool
    ) -> torch.Tensor:
        """Rotate, write and attend.

        Args:
            layer: index of the layer.
            qkv: [tokens, (heads + 2 kv_heads) × head_size], already normalized where the family does so.
            batch: the step.
            cosine: float32 [positions, head_size / 2].
            sine: float32 [positions, head_size / 2].
            rotate: False for layers without positional encoding.

        Returns:
            [tokens, heads × head_size] in the dtype of `qkv`.
        """
        ...


def _rotate(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1).to(x.dtype)


def split_and_rotate(
    shape: AttentionShape, qkv: torch.Tensor, batch: Batch, cosine: torch.Tensor, sine: torch.Tensor, *, rotate: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Split a fused projection into q, k, v of [tokens, heads, head_size], q and k rotated."""
    tokens = qkv.shape[0]
    sizes = [shape.heads * shape.head_size, shape.kv_heads * shape.head_size, shape.kv_heads * shape.head_size]
    query, key, value = (part.reshape(tokens, -1, shape.head_size) for part in qkv.split(sizes, dim=-1))
    if rotate:
        c, s = cosine[batch.positions].unsqueeze(1), sine[batch.positions].unsqueeze(1)
        query, key = _rotate(query, c, s), _rotate(key, c, s)
    return query, key, value


class GatherAttention:
    """Portable: pages gathered into a padded tensor, then `scaled_dot_product_attention`. The kernels' reference."""

    name = "gather + SDPA"

    def __init__(self, shape: AttentionShape, dtype: torch.dtype, device: torch.device) -> None:
        self.shape, self.dtype, self.device = shape, dtype, device
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []

    def allocate(self, blocks: int) -> None:
        """Reserve pages of [blocks, 16, kv_heads, head_size]."""
        size = (blocks, BLOCK_SIZE, self.shape.kv_heads, self.shape.head_size)
        self.keys = [torch.zeros(size, dtype=self.dtype, device=self.device) for _ in range(self.shape.layers)]
        self.values = [torch.zeros(size, dtype=self.dtype, device=self.device) for _ in range(self.shape.layers)]

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor, batch: Batch) -> None:
        """Put new keys and values into their slots."""
        self.keys[layer].view(-1, self.shape.kv_heads, self.shape.head_size)[batch.slots] = key
        self.values[layer].view(-1, self.shape.kv_heads, self.shape.head_size)[batch.slots] = value

    def forward(
        self, layer: int, qkv: torch.Tensor, batch: Batch, cosine: torch.Tensor, sine: torch.Tensor, *, rotate: bool
    ) -> torch.Tensor:
        """See `PagedAttention.forward`."""
        query, key, value = split_and_rotate(self.shape, qkv, batch, cosine, sine, rotate=rotate)
        self.write(layer, key, value, batch)
        out = torch.empty_like(query)
        starts = batch.query_starts.tolist()
        contexts = batch.context_lens.tolist()
        if batch.max_query == 1:
            self._decode(layer, query, out, batch)
        else:
            for i, context in enumerate(contexts):
                begin, end = starts[i], starts[i + 1]
                pages = batch.tables[i, : -(-context // BLOCK_SIZE)]
                k = self.keys[layer][pages].flatten(0, 1)[:context]
                v = self.values[layer][pages].flatten(0, 1)[:context]
                q = query[begin:end]
                rows = torch.arange(context - (end - begin), context, device=self.device).unsqueeze(1)
                mask = torch.arange(context, device=self.device).unsqueeze(0) <= rows
                out[begin:end] = F.scaled_dot_product_attention(
                    q.transpose(0, 1).unsqueeze(0),
                    k.transpose(0, 1).unsqueeze(0),
                    v.transpose(0, 1).unsqueeze(0),
                    attn_mask=mask,
                    enable_gqa=True,
                )[0].transpose(0, 1)
        return out.flatten(1)

    def _decode(self, layer: int, query: torch.Tensor, out: torch.Tensor, batch: Batch) -> None:
        width = -(-batch.max_context // BLOCK_SIZE)
        tables = batch.tables[:, :width].long()
        k = self.keys[layer][tables].flatten(1, 2)
        v = self.values[layer][tables].flatten(1, 2)
        mask = torch.arange(k.shape[1], device=self.device).unsqueeze(0) < batch.context_lens.unsqueeze(1)
        out.copy_(
            F.scaled_dot_product_attention(
                query.unsqueeze(2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask[:, None, None], enable_gqa=True
            ).squeeze(2)
        )


class VarlenAttention(GatherAttention):
    """CUDA: FlashAttention reads the pages through block tables (`torch.nn.attention.varlen`, torch ≥ 2.12)."""

    name = "FlashAttention over block tables"

    @staticmethod
    def supported() -> bool:
        """Whether this torch has block tables in `varlen_attn`."""
        import inspect

        try:
            from torch.nn.attention.varlen import varlen_attn
        except ImportError:
            return False
        return torch.cuda.is_available() and "block_table" in inspect.signature(varlen_attn).parameters

    def forward(
        self, layer: int, qkv: torch.Tensor, batch: Batch, cosine: torch.Tensor, sine: torch.Tensor, *, rotate: bool
    ) -> torch.Tensor:
        """See `PagedAttention.forward`."""
        from torch.nn.attention.varlen import varlen_attn

        query, key, value = split_and_rotate(self.shape, qkv, batch, cosine, sine, rotate=rotate)
        self.write(layer, key, value, batch)
        out: torch.Tensor = varlen_attn(  # type: ignore[assignment]
            query.contiguous(),
            self.keys[layer],
            self.values[layer],
            batch.query_starts,
            None,
            batch.max_query,
            batch.max_context,
            window_size=(-1, 0),
            enable_gqa=True,
            seqused_k=batch.context_lens,
            block_table=batch.tables,
        )
        return out.flatten(1)


class KernelAttention:
    """CPU: the C++ kernel, pages read in place."""

    name = "C++ paged kernel"

    def __init__(self, shape: AttentionShape, dtype: torch.dtype, kernels: ctypes.CDLL) -> None:
        self.shape, self.dtype, self.kernels = shape, dtype, kernels
        self._is_bf16 = int(dtype is torch.bfloat16)
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []

    @staticmethod
    def supports(shape: AttentionShape, dtype: torch.dtype) -> bool:
        """Whether head size and dtype fit the kernel's vectors."""
        return shape.head_size % 16 == 0 and dtype in (torch.float32, torch.bfloat16)

    def allocate(self, blocks: int) -> None:
        """Reserve pages; memory becomes resident as it is touched."""
        size = blocks * self.shape.kv_heads * BLOCK_SIZE * self.shape.head_size
        # The unwritten lanes of a page are read and masked, so they must hold numbers: zeros.
        pages = zeros(2 * self.shape.layers * size, self.dtype).view(self.shape.layers, 2, size)
        self.keys = [layer[0] for layer in pages]
        self.values = [layer[1] for layer in pages]

    def forward(
        self, layer: int, qkv: torch.Tensor, batch: Batch, cosine: torch.Tensor, sine: torch.Tensor, *, rotate: bool
    ) -> torch.Tensor:
        """See `PagedAttention.forward`."""
        s, tokens = self.shape, qkv.shape[0]
        query = torch.empty(tokens, s.heads * s.head_size, dtype=self.dtype)
        out = torch.empty_like(query)
        keys, values = self.keys[layer].data_ptr(), self.values[layer].data_ptr()
        self.kernels.tenfold_rope_and_write(
            self._is_bf16,
            qkv.data_ptr(),
            batch.positions.data_ptr(),
            batch.slots.data_ptr(),
            cosine.data_ptr(),
            sine.data_ptr(),
            query.data_ptr(),
            keys,
            values,
            tokens,
            s.heads,
            s.kv_heads,
            s.head_size,
            int(rotate),
        )
        self.kernels.tenfold_attention(
            self._is_bf16,
            query.data_ptr(),
            keys,
            values,
            out.data_ptr(),
            batch.tables.data_ptr(),
            batch.tables.stride(0),
            batch.query_starts.data_ptr(),
            batch.context_lens.data_ptr(),
            batch.context_lens.shape[0],
            s.heads,
            s.kv_heads,
            s.head_size,
            s.head_size**-0.5,
        )
        return out
