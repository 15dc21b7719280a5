"""Portable attention: pages gathered into a padded tensor, then torch's own. What every other one is held against."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from backend.engine.attention.base import AttentionShape, Batch, PageSelection, Rotation
from backend.engine.config import BLOCK_SIZE, blocks_for
from backend.engine.model.rotary import rotate_pairs


@dataclass(frozen=True, slots=True)
class PrefillStep:
    """Of a step in which a sequence has several new tokens: first rows, and contexts, read on the host."""

    starts: list[int]
    contexts: list[int]


@dataclass(frozen=True, slots=True)
class DecodeStep:
    """Of a step of one new token a sequence: int64 tables [sequences, blocks], and which of their tokens are read."""

    tables: torch.Tensor
    mask: torch.Tensor


def split_and_rotate(
    shape: AttentionShape, qkv: torch.Tensor, batch: Batch, cosine: torch.Tensor, sine: torch.Tensor, *, rotate: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Split a fused projection into q, k, v of [tokens, heads, head_size], q and k rotated."""
    tokens = qkv.shape[0]
    sizes = [shape.heads * shape.head_size, shape.kv_heads * shape.head_size, shape.kv_heads * shape.head_size]
    query, key, value = (part.reshape(tokens, -1, shape.head_size) for part in qkv.split(sizes, dim=-1))
    if rotate:
        c, s = cosine[batch.positions].unsqueeze(1), sine[batch.positions].unsqueeze(1)
        query, key = rotate_pairs(query, c, s), rotate_pairs(key, c, s)
    return query, key, value


class GatherAttention:
    """Pages are gathered, then `scaled_dot_product_attention` reads them. The kernels' reference."""

    name = "gather + SDPA"
    scattered = True
    capturable = False  # lengths are read on the host, and a graph would gather the longest context each time

    def __init__(self, shape: AttentionShape, dtype: torch.dtype, device: torch.device) -> None:
        self.shape, self.dtype, self.device = shape, dtype, device
        self.selection = PageSelection()
        element = torch.empty(0, dtype=dtype).element_size()
        self.block_bytes = shape.layers * 2 * shape.kv_heads * shape.head_size * BLOCK_SIZE * element
        self.pages = torch.empty(0)
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []

    def allocate(self, blocks: int) -> None:
        """Reserve pages of [blocks, 16, kv_heads, head_size] for keys and for values of every layer."""
        size = (self.shape.layers, 2, blocks, BLOCK_SIZE, self.shape.kv_heads, self.shape.head_size)
        self.pages = torch.zeros(size, dtype=self.dtype, device=self.device)
        self.keys = [layer[0] for layer in self.pages]
        self.values = [layer[1] for layer in self.pages]

    def read_block(self, block: int) -> bytes:
        """See `PagedAttention.read_block`."""
        return self.pages[:, :, block].contiguous().cpu().view(torch.uint8).numpy().tobytes()

    def write_block(self, block: int, data: bytes | memoryview) -> None:
        """See `PagedAttention.write_block`."""
        flat = torch.frombuffer(bytearray(data), dtype=self.dtype)
        self.pages[:, :, block] = flat.view(self.pages[:, :, block].shape).to(self.device)

    def _flat(self) -> torch.Tensor:
        return self.pages.view(self.shape.layers, 2, -1, self.shape.kv_heads, self.shape.head_size)

    def read_tokens(self, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `PagedAttention.read_tokens`."""
        found = self._flat()[:, :, slots.to(self.device)].float().cpu()
        return found[:, 0].contiguous(), found[:, 1].contiguous()

    def write_tokens(
        self,
        slots: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        rotation: Rotation | None,
        unrotated: frozenset[int],
    ) -> None:
        """See `PagedAttention.write_tokens`."""
        if rotation is not None:
            rotated = rotate_pairs(keys, *rotation)
            for layer in unrotated:
                rotated[layer] = keys[layer]
            keys = rotated
        flat = self._flat()
        flat[:, 0, slots.to(self.device)] = keys.to(self.device, self.dtype)
        flat[:, 1, slots.to(self.device)] = values.to(self.device, self.dtype)

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor, batch: Batch) -> None:
        """Put new keys and values into their slots."""
        self.keys[layer].view(-1, self.shape.kv_heads, self.shape.head_size)[batch.slots] = key
        self.values[layer].view(-1, self.shape.kv_heads, self.shape.head_size)[batch.slots] = value

    def prepare(self, batch: Batch) -> None:
        """See `PagedAttention.prepare`."""
        if batch.max_query > 1:
            batch.metadata = PrefillStep(batch.query_starts.tolist(), batch.context_lens.tolist())
            return
        tables = batch.tables[:, : blocks_for(batch.max_context)].long()
        seen = torch.arange(tables.shape[1] * BLOCK_SIZE, device=self.device)
        batch.metadata = DecodeStep(tables, seen.unsqueeze(0) < batch.context_lens.unsqueeze(1))

    def forward(
        self, layer: int, qkv: torch.Tensor, batch: Batch, cosine: torch.Tensor, sine: torch.Tensor, *, rotate: bool
    ) -> torch.Tensor:
        """See `PagedAttention.forward`."""
        query, key, value = split_and_rotate(self.shape, qkv, batch, cosine, sine, rotate=rotate)
        self.write(layer, key, value, batch)
        out = torch.empty_like(query)
        if isinstance(batch.metadata, DecodeStep):
            self._decode(layer, query, out, batch.metadata)
        else:
            assert isinstance(batch.metadata, PrefillStep)
            self._prefill(layer, query, out, batch, batch.metadata)
        return out.flatten(1)

    def _prefill(self, layer: int, query: torch.Tensor, out: torch.Tensor, batch: Batch, step: PrefillStep) -> None:
        for i, context in enumerate(step.contexts):
            begin, end = step.starts[i], step.starts[i + 1]
            pages = batch.tables[i, : blocks_for(context)]
            k = self.keys[layer][pages].flatten(0, 1)[:context]
            v = self.values[layer][pages].flatten(0, 1)[:context]
            rows = batch.positions[begin:end].unsqueeze(1)
            mask = torch.arange(context, device=self.device).unsqueeze(0) <= rows
            out[begin:end] = F.scaled_dot_product_attention(
                query[begin:end].transpose(0, 1).unsqueeze(0),
                k.transpose(0, 1).unsqueeze(0),
                v.transpose(0, 1).unsqueeze(0),
                attn_mask=mask,
                enable_gqa=True,
            )[0].transpose(0, 1)

    def _decode(self, layer: int, query: torch.Tensor, out: torch.Tensor, step: DecodeStep) -> None:
        k = self.keys[layer][step.tables].flatten(1, 2)
        v = self.values[layer][step.tables].flatten(1, 2)
        out.copy_(
            F.scaled_dot_product_attention(
                query.unsqueeze(2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=step.mask[:, None, None],
                enable_gqa=True,
            ).squeeze(2)
        )  # fmt: skip
