"""Attention on a GPU is chosen by a real call whose result is right, never by a name or a signature."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from backend.engine.attention.base import AttentionShape
from backend.engine.attention.choice import TRITON, choose_gpu_attention
from backend.engine.attention.flash import VarlenAttention
from backend.engine.attention.gather import GatherAttention
from backend.engine.model.operations import TorchOps, check, operations_for

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


def choose(kernel: Any, dtype: torch.dtype = torch.bfloat16) -> tuple[Any, dict[str, str]]:
    """Among FlashAttention by `kernel` and plain attention; which failed, and why."""
    candidates = (
        ("flash", lambda shape, dtype, device: VarlenAttention(shape, dtype, device, kernel)),
        ("plain", GatherAttention),
    )
    attention, tried = choose_gpu_attention(SHAPE, dtype, torch.device("cpu"), candidates)
    assert all(one.milliseconds > 0 for one in tried if not one.problem)
    return attention, {one.name: one.problem for one in tried if one.problem}


@pytest.fixture
def slow_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU; here it is the device that is made up."""
    real = GatherAttention.forward

    def slow(self: Any, *args: Any, **named: Any) -> torch.Tensor:
        if type(self) is GatherAttention:
            time.sleep(0.05)
        return real(self, *args, **named)

    monkeypatch.setattr(GatherAttention, "forward", slow)


@pytest.mark.parametrize("kernel", [right, split_by_itself])
def test_the_fastest_that_gives_right_results_is_chosen(kernel: Any, slow_plain: None) -> None:
    attention, problems = choose(kernel)
    assert type(attention) is VarlenAttention and not problems and attention.capturable


def test_what_is_right_but_slower_is_not() -> None:
    def slow(*args: Any, **named: Any) -> torch.Tensor:
        time.sleep(0.05)
        return right(*args, **named)

    attention, problems = choose(slow)
    assert type(attention) is GatherAttention and not problems


@pytest.mark.parametrize(
    ("kernel", "why"),
    [(refuses, "block size must be divisible by 256"), (wrong, "differ by"), (no_numbers, "differ by nan")],
)
def test_an_attention_that_fails_or_is_wrong_gives_way_and_says_why(kernel: Any, why: str) -> None:
    attention, problems = choose(kernel)
    assert type(attention) is GatherAttention and not attention.capturable
    assert why in problems["flash"] and "\n" not in problems["flash"]


def test_float32_is_left_to_others() -> None:
    attention, problems = choose(right, torch.float32)
    assert type(attention) is GatherAttention and "float32" in problems["flash"]


def test_this_torchs_own_attention_does_not_stop_a_machine_without_a_gpu() -> None:
    attention, problems = choose(None)
    assert type(attention) is GatherAttention and problems["flash"]


def test_operations_that_differ_from_plain_torchs_are_not_trusted() -> None:
    class Off(TorchOps):
        @staticmethod
        def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
            return TorchOps.silu_mul(gate_up) * 1.2

    check(TorchOps(), torch.device("cpu"), 96)
    with pytest.raises(ValueError, match="differ by"):
        check(Off(), torch.device("cpu"), 96)
    assert type(operations_for(torch.device("cpu"), 96)) is TorchOps


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_what_is_ours_is_right_on_the_device() -> None:
    device = torch.device("cuda")
    _, tried = choose_gpu_attention(SHAPE, torch.bfloat16, device)
    assert {one.name: one.problem for one in tried if "Triton" in one.name} == {TRITON: ""}
    assert type(operations_for(device, 576)) is not TorchOps
