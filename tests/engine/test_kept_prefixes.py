"""A prompt's state outlives the process: found again on disk, exact, and never trusted where it is damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backend.engine.prefix_store import HEADER, PrefixStore
from backend.engine.switches import Switches

FP32 = Switches(quantization="fp32")


def once(harness: Any, name: str, prompt: list[int]) -> tuple[list[int], int]:
    tokens = harness.run({name: prompt}, max_tokens=12, ignore_eos=True)[name]
    return tokens, harness.out.finished(name).usage.cached_tokens


@pytest.mark.parametrize("settings", [{}, {"use_kernels": False}])
def test_a_prefix_is_used_again_after_a_restart(
    make_engine: Any, prompts: Any, tmp_path: Path, settings: dict[str, Any]
) -> None:
    prompt = prompts[2] * 6
    first = make_engine(FP32, prefix_dir=tmp_path, **settings)
    expected, cached = once(first, "cold", prompt)
    assert cached == 0
    first.core.close()
    second = make_engine(FP32, prefix_dir=tmp_path, **settings)
    again, cached = once(second, "warm", prompt)
    assert again == expected
    assert cached == (len(prompt) - 1) // 16 * 16
    assert second.core.stats(0).disk_tokens == cached
    third = make_engine(FP32.updated({"disk_prefix_cache": False}), prefix_dir=tmp_path, **settings)
    assert once(third, "off", prompt) == (expected, 0)


@pytest.mark.parametrize("damage", ["cut", "flipped", "other tokens", "gone"])
def test_a_damaged_file_is_removed_and_its_block_computed(
    make_engine: Any, prompts: Any, tmp_path: Path, damage: str
) -> None:
    prompt = prompts[2] * 6
    first = make_engine(FP32, prefix_dir=tmp_path)
    expected, _ = once(first, "cold", prompt)
    first.core.close()
    files = sorted(tmp_path.rglob("*.kv"))
    assert files
    for file in files:
        data = bytearray(file.read_bytes())
        if damage == "cut":
            file.write_bytes(data[: len(data) // 2])
        elif damage == "flipped":
            data[len(data) // 2] ^= 1
            file.write_bytes(data)
        elif damage == "other tokens":
            data[HEADER.size] ^= 1
            file.write_bytes(data)
        else:
            file.unlink()
    second = make_engine(FP32, prefix_dir=tmp_path)
    assert once(second, "warm", prompt) == (expected, 0)
    second.core.cache.check([])


def test_another_precision_or_tenant_never_finds_it(make_engine: Any, prompts: Any, tmp_path: Path) -> None:
    from backend.engine.messages import Generate, SamplingParams

    prompt = prompts[2] * 6
    first = make_engine(FP32, prefix_dir=tmp_path)
    once(first, "cold", prompt)
    first.core.close()
    second = make_engine(FP32.updated({"quantization": "int8"}), prefix_dir=tmp_path)
    assert once(second, "other", prompt)[1] == 0
    third = make_engine(FP32, prefix_dir=tmp_path)
    third.core.handle(Generate("tenant", prompt, SamplingParams(max_tokens=2), salt="somebody else"))
    third.drain()
    assert third.out.finished("tenant").usage.cached_tokens == 0


def test_the_budget_holds_and_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    size = HEADER.size + 64 + 1000
    store = PrefixStore(tmp_path, "model", 1000, budget=3 * size)
    digests = [bytes([i]) * 16 for i in range(4)]
    tokens = tuple(range(16))
    for digest in digests[:3]:
        assert store.save(digest, tokens, bytes(1000))
    store.flush()
    assert store.load(digests[0], tokens) is not None
    store.save(digests[3], tokens, bytes(1000))
    store.close()
    assert [store.has(d) for d in digests] == [True, False, True, True]
    assert store.size == 3 * size == sum(f.stat().st_size for f in tmp_path.rglob("*.kv"))
    again = PrefixStore(tmp_path, "model", 1000, budget=3 * size)
    assert again.has(digests[3]) and again.size == 3 * size
    again.close()
    smaller = PrefixStore(tmp_path, "other model", 1000, budget=size)
    assert smaller.size == size, "what other models left counts too"
    smaller.close()
