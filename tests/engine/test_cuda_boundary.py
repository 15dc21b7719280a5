"""What can be right without a card: graphs' buckets, copies, and sizes, on a device boundary that is made up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.engine.attention.base import NewTokens, in_one_copy, make_batch
from backend.engine.attention.gather import GatherAttention
from backend.engine.config import EngineConfig, blocks_for
from backend.engine.cuda.graphs import BUCKETS, DecodeGraphs
from backend.engine.memory import kv_cache_bytes
from backend.engine.model.decoder import Decoder

CPU = torch.device("cpu")
CONTEXT = 40


class Recorded:
    """Stands for CUDA: what is recorded is done again over the same inputs, and all results lie in one place."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self._place: torch.Tensor | None = None

    def __call__(self, work: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        first = work()
        if self._place is None:
            self._place = first.clone()  # the largest comes first; the others use its memory
        result = self._place[: len(first)]
        self.sizes.append(len(first))

        def replay() -> None:
            result.copy_(work())

        return replay, result


def test_a_recorded_step_is_the_step_itself_in_every_bucket(tiny: tuple[Path, object]) -> None:
    decoder = Decoder(tiny[0], "fp32", CPU, None)
    attention = GatherAttention(decoder.attention_shape, torch.float32, CPU)
    each = blocks_for(CONTEXT)
    spare = each * 5
    attention.allocate(spare + 1)
    record = Recorded()
    graphs = DecodeGraphs(decoder, attention, spare, CONTEXT, record)
    assert record.sizes == sorted(BUCKETS, reverse=True)
    attention.pages.copy_(torch.randn(attention.pages.shape, generator=torch.Generator().manual_seed(0)))
    tables = [np.arange(i * each, (i + 1) * each, dtype=np.int32) for i in range(5)]

    def step(count: int, position: int) -> torch.Tensor | None:
        parts = [NewTokens([7 + i], range(position + i, position + i + 1), tables[i]) for i in range(count)]
        batch = make_batch(parts, list(range(count)), CPU)
        wanted = decoder.forward(batch, attention)
        pages = attention.pages[:, :, :spare].clone()
        got = graphs(batch)
        assert torch.allclose(attention.pages[:, :, :spare], pages, atol=1e-5), "padding writes aside"
        assert got is not None and torch.allclose(got, wanted, atol=1e-5)
        return got

    step(5, 20)
    step(3, 9)  # fewer and shorter after more: nothing of the former step is read
    step(1, 0)


def test_what_is_no_decode_step_is_not_replayed(tiny: tuple[Path, object]) -> None:
    decoder = Decoder(tiny[0], "fp32", CPU, None)
    attention = GatherAttention(decoder.attention_shape, torch.float32, CPU)
    attention.allocate(9)
    graphs = DecodeGraphs(decoder, attention, 8, CONTEXT, Recorded())
    table = np.arange(3, dtype=np.int32)
    assert graphs(make_batch([NewTokens([1, 2], range(2), table)], [1], CPU)) is None
    assert graphs(make_batch([NewTokens([1], range(1), table)], [], CPU)) is None


def test_several_arrays_travel_in_one_copy() -> None:
    arrays = {
        "a": np.arange(7, dtype=np.int64), "b": np.arange(3, dtype=np.int32), "c": np.ones((2, 5), dtype=np.int32),
        "none": np.zeros(0, dtype=np.int64), "d": np.array([9], dtype=np.int64),
    }  # fmt: skip
    there = in_one_copy(arrays, CPU)
    assert len({tensor.untyped_storage().data_ptr() for tensor in there.values()}) == 1
    for name, array in arrays.items():
        assert there[name].shape == array.shape and np.array_equal(there[name].numpy(), array)


def test_memory_and_steps_fit_the_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gigabyte = 1 << 30
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60 * gigabyte, 80 * gigabyte))
    assert kv_cache_bytes(None, gpu) == 52 * gigabyte
    assert kv_cache_bytes(5, gpu) == kv_cache_bytes(5, CPU) == 5
    assert kv_cache_bytes(None, CPU) == gigabyte
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 * gigabyte, 80 * gigabyte))
    assert kv_cache_bytes(None, gpu) == 0, "an error that says so, not a crash"
    assert EngineConfig("", tmp_path, device="cpu").step_tokens() == 512
    assert EngineConfig("", tmp_path, device="cuda").step_tokens() == 8192
    assert EngineConfig("", tmp_path, device="cuda", token_budget=64).step_tokens() == 64
