"""Our Triton kernels, by Triton's interpreter on the processor: equal to plain torch for the shapes of the families."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backend.engine.attention.base import AttentionShape, Batch, NewTokens, make_batch
from backend.engine.attention.gather import GatherAttention
from backend.engine.config import blocks_for
from backend.engine.model.decoder import Decoder
from backend.engine.model.operations import TorchOps
from backend.models.random_model import write

pytest.importorskip("triton", reason="Triton has no build for this system")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("a GPU is here, where tests marked gpu run the compiled kernels", allow_module_level=True)

from backend.engine.attention.triton import SPLIT, TritonAttention
from backend.engine.cuda.operations import TritonOps

CPU = torch.device("cpu")
HEADS = [(9, 3, 64), (8, 2, 128), (14, 2, 64), (3, 3, 80), (5, 1, 96), (6, 2, 32), (2, 1, 256)]
"""Query heads, key heads and head size: groups and sizes of the families, and sizes that are no powers of two."""
STEPS = {
    "prefill": ((37, 0), (1, 0), (20, 0)),
    "chunks beside decode": ((9, 40), (1, 77), (33, 16), (1, 5)),
    "decode": ((1, 0), (1, 15), (1, 130), (1, 16)),
    "a split context": ((1, SPLIT + 40), (1, 3)),
}


def batch_of(step: tuple[tuple[int, int], ...]) -> tuple[Batch, int]:
    """Sequences of (new, past) tokens in shuffled blocks, and how many blocks there are."""
    order = torch.randperm(sum(blocks_for(n + p) for n, p in step), generator=torch.Generator().manual_seed(2))
    parts, at = [], 0
    for new, past in step:
        count = blocks_for(new + past)
        blocks = order[at : at + count].int().numpy()
        parts.append(NewTokens([0] * new, range(past, past + new), blocks))
        at += count
    return make_batch(parts, [], CPU), at


def both(
    shape: AttentionShape, batch: Batch, blocks: int, dtype: torch.dtype, *, rotate: bool = True
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Results and pages of the plain attention and of ours."""
    random = torch.Generator().manual_seed(1)
    plain, ours = GatherAttention(shape, dtype, CPU), TritonAttention(shape, dtype, CPU)
    for attention in (plain, ours):
        attention.allocate(blocks)
    plain.pages.copy_(torch.randn(plain.pages.shape, generator=random).to(dtype))
    ours.pages.copy_(plain.pages)
    width = (shape.heads + 2 * shape.kv_heads) * shape.head_size
    qkv = torch.randn(100, width, generator=random)[: len(batch.positions)].to(dtype)
    angles = torch.rand(batch.max_context, shape.head_size // 2, generator=random)
    out = []
    for attention in (plain, ours):
        attention.prepare(batch)
        out.append(attention.forward(1, qkv.clone(), batch, angles.cos(), angles.sin(), rotate=rotate).float())
    return out[0], out[1], plain.pages, ours.pages


CASES = [(heads, step) for heads in HEADS for step in STEPS if heads in HEADS[:1] or step not in ("prefill", "decode")]


@pytest.mark.parametrize(("heads", "step"), CASES, ids=str)
def test_attention_and_what_it_writes_are_those_of_plain_torch(heads: tuple[int, int, int], step: str) -> None:
    batch, blocks = batch_of(STEPS[step])
    wanted, got, pages, ours = both(AttentionShape(2, *heads), batch, blocks, torch.float32)
    assert torch.allclose(got, wanted, atol=2e-5), float((got - wanted).abs().max())
    assert torch.allclose(ours, pages, atol=1e-6)


def test_sixteen_bits_are_as_near_as_their_rounding() -> None:
    """In float16: the interpreter has no product of bf16."""
    batch, blocks = batch_of(STEPS["chunks beside decode"])
    wanted, got, pages, ours = both(AttentionShape(2, 9, 3, 64), batch, blocks, torch.float16)
    assert float((got - wanted).abs().max()) < 0.005
    assert float((ours.float() - pages.float()).abs().max()) < 0.005


def test_layers_without_positions_are_not_rotated() -> None:
    batch, blocks = batch_of(STEPS["prefill"])
    shape = AttentionShape(2, 4, 2, 32)
    wanted, got, _, _ = both(shape, batch, blocks, torch.float32, rotate=False)
    turned, _, _, _ = both(shape, batch, blocks, torch.float32)
    assert torch.allclose(got, wanted, atol=2e-5) and not torch.allclose(wanted, turned, atol=0.1)


def test_positions_may_have_gaps() -> None:
    """As passages used elsewhere leave them: what is known already is not computed, and is seen all the same."""
    parts = [NewTokens([0] * 4, np.array([3, 20, 21, 40]), np.arange(3, dtype=np.int32))]
    batch = make_batch(parts, [], CPU)
    wanted, got, pages, ours = both(AttentionShape(2, 6, 2, 32), batch, 3, torch.float32)
    assert torch.allclose(got, wanted, atol=2e-5) and torch.allclose(ours, pages, atol=1e-6)


def test_a_row_is_the_same_alone_and_in_a_batch() -> None:
    shape = AttentionShape(2, 6, 2, 32)
    together, blocks = batch_of(STEPS["a split context"])
    _, whole, _, _ = both(shape, together, blocks, torch.float32)
    first = together.query_starts[1]
    alone = Batch(
        together.token_ids[:first], together.positions[:first], together.slots[:first], together.query_starts[:2],
        together.context_lens[:1], together.tables[:1], 1, int(together.context_lens[0]), together.last,
    )  # fmt: skip
    _, got, _, _ = both(shape, alone, blocks, torch.float32)
    assert torch.equal(got, whole[:first])


@pytest.mark.parametrize("width", [64, 576, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_steps_between_products_are_those_of_plain_torch(width: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    residual, delta, weight = torch.randn(7, width).to(dtype), torch.randn(7, width).to(dtype), torch.rand(width)
    for added in (delta, None):
        a, b = residual.clone(), residual.clone()
        wanted = TorchOps.add_rms_norm(a, added, weight, 1e-5, dtype)
        got = TritonOps.add_rms_norm(b, added, weight, 1e-5, dtype)
        assert torch.equal(a, b), "the residual stream"
        assert torch.allclose(got.float(), wanted.float(), atol=1e-6 if dtype is torch.float32 else 0.02)
    gate_up = torch.randn(5, 2 * width).to(dtype)
    wanted, got = TorchOps.silu_mul(gate_up), TritonOps.silu_mul(gate_up)
    assert torch.allclose(got.float(), wanted.float(), atol=1e-6 if dtype is torch.float32 else 0.03)


def test_a_whole_decoder_on_them_answers_as_on_plain_torch(tmp_path: Path) -> None:
    decoder = Decoder(write("tiny", tmp_path / "tiny"), "fp32", CPU, None)
    batch = make_batch(
        [NewTokens(list(range(5, 30)), range(25), np.arange(2, dtype=np.int32)),
         NewTokens([7, 8, 9], range(3), np.array([2], dtype=np.int32))], [24, 27], CPU,
    )  # fmt: skip

    def logits(attention: Any, ops: Any) -> torch.Tensor:
        attention.allocate(3)
        decoder.ops = ops
        return decoder.forward(batch, attention)

    wanted = logits(GatherAttention(decoder.attention_shape, torch.float32, CPU), TorchOps())
    got = logits(TritonAttention(decoder.attention_shape, torch.float32, CPU), TritonOps())
    assert torch.allclose(got, wanted, atol=1e-4) and torch.equal(got.argmax(-1), wanted.argmax(-1))
