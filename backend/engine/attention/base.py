"""Attention over the paged KV cache, in place: the C++ kernel on CPU, FlashAttention on CUDA, gather + SDPA elsewhere.

One interface for all: a batch is flattened tokens plus block tables, so sharing a prefix is two tables naming the same
block, whatever the device.
"""

from __future__ import annotations

import ctypes
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from backend.engine.config import BLOCK_SIZE
from backend.engine.kernels.build import NativeBatch
from backend.engine.memory import zeros

log = logging.getLogger(__name__)

DENSE_LAYERS = 1
"""First layers that top-K sparse attention leaves alone: what they look at is spread out (Quest, Tang et al. 2024)."""


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
    native: NativeBatch | None = None  # the kernels' view of it, made when they first ask


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


@dataclass(frozen=True, slots=True)
class Reading:
    """Which pages a decode step reads, and how; may change between steps.

    Attributes:
        keep_percent: top-K sparse attention reads this share of a sequence's pages; 100 reads all.
        share_pages: pages that several sequences of a batch name are read once for all of them. Exact.
    """

    keep_percent: int = 100
    share_pages: bool = True


class PagedAttention(Protocol):
    """Owns the page tensors of every layer; writes new keys and values and attends over block tables."""

    name: str
    scattered: bool  # whether a step's tokens of one sequence may leave positions out
    capturable: bool  # whether a CUDA graph can record it
    block_bytes: int
    reading: Reading

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
        turn: tuple[torch.Tensor, torch.Tensor] | None,
        unrotated: frozenset[int],
    ) -> None:
        """Write what `read_tokens` gave into other slots.

        Args:
            slots: int64 [tokens].
            keys: float32 [layers, tokens, kv_heads, head_size].
            values: the same.
            turn: cosine and sine, [head_size / 2] each, of the angle to rotate the keys by; None keeps them.
            unrotated: layers without positional encoding.
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
    scattered = True
    capturable = False  # lengths are read on the host, and a graph would gather the longest context each time

    def __init__(self, shape: AttentionShape, dtype: torch.dtype, device: torch.device) -> None:
        self.shape, self.dtype, self.device = shape, dtype, device
        self.reading = Reading()
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
        turn: tuple[torch.Tensor, torch.Tensor] | None,
        unrotated: frozenset[int],
    ) -> None:
        """See `PagedAttention.write_tokens`."""
        if turn is not None:
            turned = _rotate(keys, *turn)
            for layer in unrotated:
                turned[layer] = keys[layer]
            keys = turned
        flat = self._flat()
        flat[:, 0, slots.to(self.device)] = keys.to(self.device, self.dtype)
        flat[:, 1, slots.to(self.device)] = values.to(self.device, self.dtype)

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
                rows = batch.positions[begin:end].unsqueeze(1)
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


VarlenKernel = Callable[..., Any]
"""`torch.nn.attention.varlen.varlen_attn`, or what stands for it in a test."""


class VarlenAttention(GatherAttention):
    """CUDA: FlashAttention reads the pages through block tables (`torch.nn.attention.varlen`, torch ≥ 2.12).

    Args:
        shape: of the model.
        dtype: of activations, bfloat16.
        device: where it runs.
        kernel: `varlen_attn`.
    """

    name = "FlashAttention over block tables"
    scattered = False  # its causal mask knows no gaps
    capturable = True

    def __init__(self, shape: AttentionShape, dtype: torch.dtype, device: torch.device, kernel: VarlenKernel) -> None:
        super().__init__(shape, dtype, device)
        self._kernel = kernel

    def forward(
        self, layer: int, qkv: torch.Tensor, batch: Batch, cosine: torch.Tensor, sine: torch.Tensor, *, rotate: bool
    ) -> torch.Tensor:
        """See `PagedAttention.forward`."""
        query, key, value = split_and_rotate(self.shape, qkv, batch, cosine, sine, rotate=rotate)
        self.write(layer, key, value, batch)
        out: torch.Tensor = self._kernel(
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
            # FlashAttention 2 with pages writes every sequence's result over the first one's when it splits keys by
            # itself (pytorch#194167); unsplit, a result does not depend on the batch either.
            num_splits=1,
        )
        return out.flatten(1)


TRIALS = ((40, 0), (17, 83), (1, 32)), ((1, 0), (1, 699), (1, 2000))
"""Two steps that are tried before an attention is trusted: new tokens and tokens before them, of each sequence."""
TRIAL_TOLERANCE = 0.05
"""Largest absolute difference of attention over random values of about 1, computed in bf16."""


def choose_gpu_attention(
    shape: AttentionShape, dtype: torch.dtype, device: torch.device, kernel: VarlenKernel | None = None
) -> tuple[PagedAttention, str | None]:
    """The fastest attention that gives right results on this device, found by trying, and why no faster one serves.

    Args:
        shape: of the model.
        dtype: of activations.
        device: where it runs.
        kernel: tried instead of this torch's own.
    """
    try:
        problem = _varlen_problem(shape, dtype, device, kernel or _stock_kernel())
    except Exception as error:  # whatever a library or a driver says to it, there is another way
        log.warning("FlashAttention over block tables cannot be used", exc_info=True)
        problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if problem is None:
        return VarlenAttention(shape, dtype, device, kernel or _stock_kernel()), None
    return GatherAttention(shape, dtype, device), f"FlashAttention over block tables cannot be used here ({problem})"


def _stock_kernel() -> VarlenKernel:
    from torch.nn.attention.varlen import varlen_attn

    if not {"block_table", "num_splits"} <= inspect.signature(varlen_attn).parameters.keys():
        raise NotImplementedError("this torch's varlen_attn knows no block tables")
    return varlen_attn


@torch.inference_mode()
def _varlen_problem(
    shape: AttentionShape, dtype: torch.dtype, device: torch.device, kernel: VarlenKernel
) -> str | None:
    """Hold `VarlenAttention` against the plain way, on made-up data in the shapes that it will meet."""
    if dtype not in (torch.bfloat16, torch.float16):
        return f"it does not compute in {str(dtype).removeprefix('torch.')}"
    one = AttentionShape(1, shape.heads, shape.kv_heads, shape.head_size)
    plain, tried = GatherAttention(one, dtype, device), VarlenAttention(one, dtype, device, kernel)
    random = torch.Generator().manual_seed(0)
    for step in TRIALS:
        contexts = [new + past for new, past in step]
        batch, blocks = _trial_batch(step, device, random)
        for attention in (plain, tried):
            attention.allocate(blocks)
        plain.pages.copy_(torch.randn(plain.pages.shape, generator=random).to(dtype))
        tried.pages.copy_(plain.pages)
        width = (shape.heads + 2 * shape.kv_heads) * shape.head_size
        qkv = torch.randn(len(batch.positions), width, generator=random).to(device, dtype)
        angles = torch.rand(max(contexts), shape.head_size // 2, generator=random).to(device)
        wanted, got = (
            attention.forward(0, qkv.clone(), batch, angles.cos(), angles.sin(), rotate=True).float()
            for attention in (plain, tried)
        )
        worst = float((wanted - got).abs().max())
        if not worst <= TRIAL_TOLERANCE:  # so that no number is a difference too
            return f"its results differ by {worst:.3g} from plain attention's"
    return None


def _trial_batch(
    step: tuple[tuple[int, int], ...], device: torch.device, random: torch.Generator
) -> tuple[Batch, int]:
    """A batch whose sequences own shuffled blocks, and how many blocks there are."""
    contexts = torch.tensor([new + past for new, past in step])
    needed = [-(-int(context) // BLOCK_SIZE) for context in contexts]
    order = torch.randperm(sum(needed), generator=random)
    tables = torch.zeros(len(step), max(needed), dtype=torch.int64)
    for i, mine in enumerate(order.split(needed)):
        tables[i, : len(mine)] = mine
    positions = [torch.arange(past, past + new) for new, past in step]
    slots = [tables[i, at // BLOCK_SIZE] * BLOCK_SIZE + at % BLOCK_SIZE for i, at in enumerate(positions)]
    new = torch.tensor([0, *(new for new, _ in step)])
    batch = Batch(
        token_ids=torch.zeros(int(new.sum()), dtype=torch.int64, device=device),
        positions=torch.cat(positions).to(device),
        slots=torch.cat(slots).to(device),
        query_starts=new.cumsum(0).int().to(device),
        context_lens=contexts.int().to(device),
        tables=tables.int().to(device),
        max_query=int(new.max()),
        max_context=int(contexts.max()),
        last=torch.arange(0, device=device),
    )
    return batch, sum(needed)


class KernelAttention:
    """CPU: the C++ kernel, pages read in place.

    Args:
        shape: of the model.
        dtype: of activations, float32 or bfloat16.
        kernels: the C++ library.
        int8: hold keys and values in 8 bits, one scale per token and head: half the bytes of bf16.
    """

    scattered = True
    capturable = False

    name = "C++ paged kernel"

    def __init__(
        self, shape: AttentionShape, dtype: torch.dtype, kernels: ctypes.CDLL, *, int8: bool = False
    ) -> None:
        self.shape, self.dtype, self.kernels = shape, dtype, kernels
        self.name = "C++ paged kernel" + (", 8-bit pages" if int8 else "")
        self.reading = Reading()
        self.kind = 2 if int8 else int(dtype is torch.bfloat16)
        self.is_bf16 = int(dtype is torch.bfloat16)
        self.layer_bytes = shape.kv_heads * int(kernels.tenfold_page_bytes(self.kind, shape.head_size))
        self.block_bytes = shape.layers * self.layer_bytes
        self.pages = torch.empty(0, dtype=torch.uint8)
        self.summaries: torch.Tensor | None = None  # bf16 [layers, blocks, kv_heads, 2, head_size], while wanted

    @staticmethod
    def supports(shape: AttentionShape, dtype: torch.dtype) -> bool:
        """Whether head size and dtype fit the kernel's vectors."""
        fits = shape.head_size % 16 == 0 and shape.head_size <= 512
        return fits and dtype in (torch.float32, torch.bfloat16)

    def allocate(self, blocks: int) -> None:
        """Reserve pages; memory becomes resident as it is touched."""
        # The unwritten lanes of a page are read and masked, so they must hold numbers: zeros.
        size = self.shape.layers * blocks * self.layer_bytes
        self.pages = zeros(size, torch.uint8).view(self.shape.layers, blocks, self.layer_bytes)
        self.summaries = None

    def page_pointer(self, layer: int) -> int:
        """Address of a layer's pages."""
        return int(self.pages.data_ptr()) + layer * int(self.pages.stride(0))

    def summaries_pointer(self, layer: int) -> int:
        """Address of a layer's summaries; 0 where they are not kept, or where the layer reads everything."""
        if self.summaries is None or layer < DENSE_LAYERS:
            return 0
        return int(self.summaries[layer].data_ptr())

    def prepare(self, batch: Batch) -> NativeBatch:
        """The kernels' view of a batch; summaries of pages are made here when sparse reading was just switched on."""
        if self.reading.keep_percent < 100 and self.summaries is None:
            self._keep_summaries()
        elif self.reading.keep_percent == 100:
            self.summaries = None
        if batch.native is None:
            batch.native = NativeBatch(
                batch.positions.data_ptr(), batch.slots.data_ptr(), batch.query_starts.data_ptr(),
                batch.context_lens.data_ptr(), batch.tables.data_ptr(), batch.tables.stride(0),
                batch.context_lens.shape[0], batch.positions.shape[0], self.shape.heads, self.shape.kv_heads,
                self.shape.head_size, self.kind, self.reading.keep_percent, int(self.reading.share_pages),
            )  # fmt: skip
        return batch.native

    def _keep_summaries(self) -> None:
        s, blocks = self.shape, self.pages.shape[1]
        count = s.layers * blocks * s.kv_heads * 2 * s.head_size
        self.summaries = zeros(count, torch.bfloat16).view(s.layers, blocks, s.kv_heads, 2, s.head_size)
        written = self.pages[0].view(torch.int64).ne(0).any(dim=1).nonzero().flatten()
        self._summarize(written)

    def _summarize(self, blocks: torch.Tensor) -> None:
        if self.summaries is None:
            return
        which = blocks.to(torch.int32)
        for layer in range(DENSE_LAYERS, self.shape.layers):
            self.kernels.tenfold_summarize(
                self.kind, self.page_pointer(layer), self.summaries_pointer(layer), which.data_ptr(), len(which),
                self.shape.kv_heads, self.shape.head_size,
            )  # fmt: skip

    def forward(
        self, layer: int, qkv: torch.Tensor, batch: Batch, cosine: torch.Tensor, sine: torch.Tensor, *, rotate: bool
    ) -> torch.Tensor:
        """See `PagedAttention.forward`."""
        query = torch.empty(qkv.shape[0], self.shape.heads * self.shape.head_size, dtype=self.dtype)
        out = torch.empty_like(query)
        native = self.prepare(batch)
        pages, summaries = self.page_pointer(layer), self.summaries_pointer(layer)
        self.kernels.tenfold_rope_and_write(
            self.is_bf16, native, qkv.data_ptr(), cosine.data_ptr(), sine.data_ptr(), query.data_ptr(), pages,
            summaries, int(rotate),
        )  # fmt: skip
        plan = self.kernels.tenfold_plan(native)
        self.kernels.tenfold_attention(self.is_bf16, native, plan, query.data_ptr(), pages, summaries, out.data_ptr())
        self.kernels.tenfold_plan_free(plan)
        return out

    def read_block(self, block: int) -> bytes:
        """See `PagedAttention.read_block`."""
        return self.pages[:, block].contiguous().numpy().tobytes()

    def write_block(self, block: int, data: bytes | memoryview) -> None:
        """See `PagedAttention.write_block`."""
        self.pages[:, block] = torch.frombuffer(data, dtype=torch.uint8).view(self.shape.layers, -1)
        self._summarize(torch.tensor([block]))

    def read_tokens(self, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `PagedAttention.read_tokens`."""
        s = self.shape
        keys = torch.empty(s.layers, len(slots), s.kv_heads, s.head_size)
        values = torch.empty_like(keys)
        for layer in range(s.layers):
            self.kernels.tenfold_read_tokens(
                self.kind, self.page_pointer(layer), slots.data_ptr(), len(slots), s.kv_heads, s.head_size,
                keys[layer].data_ptr(), values[layer].data_ptr(),
            )  # fmt: skip
        return keys, values

    def write_tokens(
        self,
        slots: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        turn: tuple[torch.Tensor, torch.Tensor] | None,
        unrotated: frozenset[int],
    ) -> None:
        """See `PagedAttention.write_tokens`."""
        s = self.shape
        for layer in range(s.layers):
            cosine, sine = (0, 0) if turn is None or layer in unrotated else (turn[0].data_ptr(), turn[1].data_ptr())
            self.kernels.tenfold_write_tokens(
                self.kind, self.page_pointer(layer), slots.data_ptr(), len(slots), s.kv_heads, s.head_size,
                keys[layer].data_ptr(), values[layer].data_ptr(), cosine, sine,
            )  # fmt: skip
        self._summarize((slots // BLOCK_SIZE).unique())
