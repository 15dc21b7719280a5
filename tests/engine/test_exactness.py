"""Greedy tokens of the real model in fp32 equal transformers' `generate`, however the requests meet."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from backend.engine.quantization.factory import resolve_variant
from backend.engine.switches import Switches
from tests.engine.conftest import LENGTH

FP32 = Switches(quantization="fp32")


def greedy(harness: Any, prompts: list[list[int]]) -> list[list[int]]:
    out = harness.run({f"r{i}": p for i, p in enumerate(prompts)}, max_tokens=LENGTH, ignore_eos=True)
    return list(out.values())


def test_alone(make_engine: Any, prompts: Any, expected: Any) -> None:
    harness = make_engine(FP32)
    for i, prompt in enumerate(prompts):
        assert harness.run({f"r{i}": prompt}, max_tokens=LENGTH, ignore_eos=True)[f"r{i}"] == expected[i]


def test_batched(make_engine: Any, prompts: Any, expected: Any) -> None:
    assert greedy(make_engine(FP32), prompts) == expected


def test_portable_path(make_engine: Any, prompts: Any, expected: Any) -> None:
    assert greedy(make_engine(FP32, use_kernels=False), prompts) == expected


def test_joined_mid_flight(make_engine: Any, prompts: Any, expected: Any) -> None:
    harness = make_engine(FP32)
    for i, prompt in enumerate(prompts):
        harness.add(f"r{i}", prompt, max_tokens=LENGTH, ignore_eos=True)
        for _ in range(5):
            harness.core.step()
    harness.drain()
    assert [harness.out.tokens(f"r{i}") for i in range(len(prompts))] == expected


def test_chunked(make_engine: Any, prompts: Any, expected: Any) -> None:
    assert greedy(make_engine(FP32, token_budget=3), prompts) == expected


def test_static_batches(make_engine: Any, prompts: Any, expected: Any) -> None:
    switches = FP32.updated({"in_flight_batching": False, "max_batch": 3})
    assert greedy(make_engine(switches), prompts) == expected


def test_cache_warm(make_engine: Any, prompts: Any, expected: Any) -> None:
    harness = make_engine(FP32)
    long = prompts[2] * 5
    cold = harness.run({"cold": long}, max_tokens=16, ignore_eos=True)["cold"]
    warm = harness.run({"warm": long}, max_tokens=16, ignore_eos=True)["warm"]
    assert warm == cold
    assert harness.out.finished("warm").usage.cached_tokens >= len(long) // 16 * 16 - 16
    assert harness.out.finished("cold").usage.cached_tokens == 0


def test_preempted_and_resumed(make_engine: Any, prompts: Any, expected: Any) -> None:
    # 7 blocks cannot hold eight sequences of two each and more, so they take turns.
    block_bytes = 30 * 2 * 3 * 64 * 16 * 4
    harness = make_engine(FP32, kv_cache_bytes=7 * block_bytes, max_model_len=100)
    assert greedy(harness, prompts) == expected
    assert harness.core.scheduler.preemptions > 0


@pytest.mark.parametrize("quantization", ["bf16", "int8"])
def test_swapping_weights_mid_flight_loses_nothing(make_engine: Any, prompts: Any, quantization: str) -> None:
    import time

    harness = make_engine(FP32)
    if resolve_variant(quantization, torch.device("cpu"), harness.core.serving.kernels) == "fp32":
        pytest.skip("bf16 is held as fp32 here, so nothing would be swapped")
    for i, prompt in enumerate(prompts):
        harness.add(f"r{i}", prompt, max_tokens=64, ignore_eos=True)
    for _ in range(10):
        harness.core.step()
    harness.core.set_switches(FP32.updated({"quantization": quantization}))
    assert harness.core.serving.decoder.variant == "fp32", "the swap must not stop the loop"
    deadline = time.monotonic() + 60
    while harness.core.serving.loading and time.monotonic() < deadline:
        harness.core.step()
        time.sleep(0.01)
    harness.drain()
    assert harness.core.serving.decoder.variant == quantization
    assert all(len(harness.out.tokens(f"r{i}")) == 64 for i in range(len(prompts)))
