"""Attention on a GPU is chosen by a real call whose result is right, never by a name or a signature."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from backend.engine.attention.base import AttentionShape
from backend.engine.attention.flash import VarlenAttention, choose_gpu_attention
from backend.engine.attention.gather import GatherAttention

SHAPE = AttentionShape(layers=2, heads=6, kv_heads=2, head_size=32)


def right(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, starts: torch.Tensor, starts_k: Any, max_q: int,
    max_k: int, *, window_size: tuple[int, int], enable_gqa: bool, seqused_k: torch.Tensor, block_table: torch.Tensor,
    num_splits: int | None,
) -> torch.Tensor:
    """What FlashAttention 3 does with pages: stands for the device."""
    assert starts_k is None and window_size == (-1, 0) and enable_gqa and keys.shape[1] == 16
    assert max_q == int(starts.diff().max()) and max_k == int(seqused_k.max())
    out = torch.empty_like(query)
    for i, length in enumerate(seqused_k.tolist()):
        begin, end = starts[i : i + 2].tolist()
        k, v = (pages[block_table[i].long()].flatten(0, 1)[:length].float() for pages in (keys, values))
        q = query[begin:end].float().transpose(0, 1)
        rows = torch.arange(length - (end - begin), length).unsqueeze(1)
        k, v = (x.repeat_interleave(q.shape[0] // x.shape[1], dim=1).transpose(0, 1) for x in (k, v))
        mask = torch.arange(length) <= rows
        out[begin:end] = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(0, 1).to(out.dtype)
    return out


def split_by_itself(*args: Any, num_splits: int | None = None, **named: Any) -> torch.Tensor:
    """FlashAttention 2 where it splits keys: every sequence's result lands in the first one's place."""
    out = right(*args, num_splits=num_splits, **named)
    if num_splits != 1:
        out[0] = out[-1]
        out[1:] = 0
    return out


def refuses(*args: Any, **named: Any) -> torch.Tensor:
    raise RuntimeError("Paged KV cache block size must be divisible by 256\nand more of the kind")


def wrong(*args: Any, **named: Any) -> torch.Tensor:
    out = right(*args, **named)
    out[1:] = out[:1]
    return out


def no_numbers(*args: Any, **named: Any) -> torch.Tensor:
    return right(*args, **named) * float("nan")


def choose(kernel: Any, dtype: torch.dtype = torch.bfloat16) -> tuple[Any, str | None]:
    return choose_gpu_attention(SHAPE, dtype, torch.device("cpu"), kernel)


@pytest.mark.parametrize("kernel", [right, split_by_itself])
def test_an_attention_that_gives_right_results_is_chosen(kernel: Any) -> None:
    attention, problem = choose(kernel)
    assert type(attention) is VarlenAttention and problem is None and attention.capturable


@pytest.mark.parametrize(
    ("kernel", "why"),
    [(refuses, "block size must be divisible by 256"), (wrong, "differ by"), (no_numbers, "differ by nan")],
)
def test_an_attention_that_fails_or_is_wrong_gives_way_and_says_why(kernel: Any, why: str) -> None:
    attention, problem = choose(kernel)
    assert type(attention) is GatherAttention and not attention.capturable
    assert problem is not None and why in problem and "\n" not in problem


def test_float32_is_left_to_plain_attention() -> None:
    attention, problem = choose(right, torch.float32)
    assert type(attention) is GatherAttention and problem is not None and "float32" in problem


def test_this_torchs_own_attention_does_not_stop_a_machine_without_a_gpu() -> None:
    attention, problem = choose(None)
    assert type(attention) is GatherAttention and problem


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_chosen_attention_equals_plain_attention_on_the_device() -> None:
    attention, problem = choose_gpu_attention(SHAPE, torch.bfloat16, torch.device("cuda"))
    assert (problem is None) == (type(attention) is VarlenAttention)
