"""Attention on a processor: the C++ kernels, which read the pages in place."""

from __future__ import annotations

import ctypes

import torch

from backend.engine.attention.base import AttentionShape, Batch, PageSelection, Rotation
from backend.engine.config import BLOCK_SIZE
from backend.engine.kernels.abi import NativeBatch
from backend.engine.memory import zeros

DENSE_LAYERS = 1
"""First layers that top-K sparse attention leaves alone: what they look at is spread out (Quest, Tang et al. 2024)."""


class KernelStep:
    """A step as the kernels know it, and the plan of its work, which all layers share."""

    def __init__(self, kernels: ctypes.CDLL, native: NativeBatch) -> None:
        self.native, self._kernels = native, kernels
        self._plan: int | None = None

    @property
    def plan(self) -> int:
        """Made when first asked for: the call for all layers at once makes its own."""
        if self._plan is None:
            self._plan = self._kernels.tenfold_plan(self.native)
        return self._plan

    def __del__(self) -> None:
        if self._plan is not None:
            self._kernels.tenfold_plan_free(self._plan)


class KernelAttention:
    """Pages of fp32, bf16 or 8 bits, in the kernels' own layout.

    Args:
        shape: of the model.
        dtype: of activations, float32 or bfloat16.
        kernels: the C++ library.
        pages: what keys and values are held in, float32 or bfloat16; None: as activations are.
        int8: hold keys and values in 8 bits, one scale per token and head: half the bytes of bf16.
    """

    scattered = True
    capturable = False

    def __init__(
        self, shape: AttentionShape, dtype: torch.dtype, kernels: ctypes.CDLL, *, pages: torch.dtype | None = None,
        int8: bool = False,
    ) -> None:  # fmt: skip
        self.shape, self.dtype, self.kernels = shape, dtype, kernels
        self.name = "C++ paged kernel" + (", 8-bit pages" if int8 else "")
        self.selection = PageSelection()
        self.kind = 2 if int8 else int((pages or dtype) is torch.bfloat16)
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

    def prepare(self, batch: Batch) -> None:
        """See `PagedAttention.prepare`; summaries of pages are made here when sparse reading was just switched on."""
        if self.selection.keep_percent < 100 and self.summaries is None:
            self._keep_summaries()
        elif self.selection.keep_percent == 100:
            self.summaries = None
        native = NativeBatch(
            batch.positions.data_ptr(), batch.slots.data_ptr(), batch.query_starts.data_ptr(),
            batch.context_lens.data_ptr(), batch.tables.data_ptr(), batch.tables.stride(0),
            batch.context_lens.shape[0], batch.positions.shape[0], self.shape.heads, self.shape.kv_heads,
            self.shape.head_size, self.kind, self.selection.keep_percent, int(self.selection.share_pages),
        )  # fmt: skip
        batch.metadata = KernelStep(self.kernels, native)

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
        step = batch.metadata
        assert isinstance(step, KernelStep)
        pages, summaries = self.page_pointer(layer), self.summaries_pointer(layer)
        self.kernels.tenfold_rope_and_write(
            self.is_bf16, step.native, qkv.data_ptr(), cosine.data_ptr(), sine.data_ptr(), query.data_ptr(), pages,
            summaries, int(rotate),
        )  # fmt: skip
        self.kernels.tenfold_attention(
            self.is_bf16, step.native, step.plan, query.data_ptr(), pages, summaries, out.data_ptr()
        )
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
        rotation: Rotation | None,
        unrotated: frozenset[int],
    ) -> None:
        """See `PagedAttention.write_tokens`."""
        s = self.shape
        for layer in range(s.layers):
            cosine, sine = (0, 0) if rotation is None or layer in unrotated else [x.data_ptr() for x in rotation]
            self.kernels.tenfold_write_tokens(
                self.kind, self.page_pointer(layer), slots.data_ptr(), len(slots), s.kv_heads, s.head_size,
                keys[layer].data_ptr(), values[layer].data_ptr(), cosine, sine,
            )  # fmt: skip
        self._summarize((slots // BLOCK_SIZE).unique())
