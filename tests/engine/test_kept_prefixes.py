"""A prompt's state outlives the process: found again on disk, exact, and never trusted where it is damaged."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from backend.engine.cache.disk import HEADER, PrefixStore
from backend.engine.core import KEPT_A_TURN
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
    assert once(first, "met again", prompt)[0] == expected
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
    make_engine: Any, tiny: Any, tmp_path: Path, damage: str
) -> None:
    prompt = [(5 * j) % 61 for j in range(80)]
    first = make_engine(FP32, folder=tiny[0], prefix_dir=tmp_path)
    expected, _ = once(first, "cold", prompt)
    once(first, "met again", prompt)
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
    second = make_engine(FP32, folder=tiny[0], prefix_dir=tmp_path)
    assert once(second, "warm", prompt) == (expected, 0)
    second.core.cache.check([])


def test_another_precision_or_tenant_never_finds_it(make_engine: Any, prompts: Any, tmp_path: Path) -> None:
    from backend.engine.messages import Generate, SamplingParams

    prompt = prompts[2] * 6
    first = make_engine(FP32, prefix_dir=tmp_path)
    once(first, "cold", prompt)
    once(first, "met again", prompt)
    first.core.close()
    assert list(tmp_path.rglob("*.kv"))
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


def test_what_is_used_stays_over_a_restart(tmp_path: Path) -> None:
    size = HEADER.size + 64 + 1000
    store = PrefixStore(tmp_path, "model", 1000, budget=3 * size)
    digests, tokens = [bytes([i]) * 16 for i in range(3)], tuple(range(16))
    for digest in digests:
        assert store.save(digest, tokens, bytes(1000))
    store.flush()
    assert store.load(digests[0], tokens) is not None
    store.close()
    again = PrefixStore(tmp_path, "model", 1000, budget=2 * size)
    assert [again.has(d) for d in digests] == [True, False, True]
    again.close()


def test_a_block_is_wanted_again_however_soon_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PrefixStore(tmp_path, "model", 1000, budget=1)  # room for none: it is written, and removed at once
    put = store._queue.put

    def put_and_wait(item: Any) -> None:
        put(item)
        if item is not None:
            store.flush()

    monkeypatch.setattr(store._queue, "put", put_and_wait)
    assert store.save(b"d" * 16, tuple(range(16)), bytes(1000))
    assert store.wants(b"d" * 16)
    store.close()


def test_another_model_need_not_wait_for_what_is_still_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PrefixStore(tmp_path, "model", 1000, budget=1 << 20)
    slow, write = threading.Event(), store._write

    def wait_and_write(*item: Any) -> None:
        assert slow.wait(60)
        write(*item)

    monkeypatch.setattr(store, "_write", wait_and_write)
    assert store.save(b"d" * 16, tuple(range(16)), bytes(1000))
    store.use("other model", 500)
    assert store.save(b"d" * 16, tuple(range(16)), bytes(500))
    slow.set()
    store.flush()
    assert store.load(b"d" * 16, tuple(range(16))) == bytes(500)
    store.use("model", 1000)
    assert store.load(b"d" * 16, tuple(range(16))) == bytes(1000)
    store.close()


def test_only_what_is_met_again_is_written(make_engine: Any, tiny: Any, tmp_path: Path) -> None:
    harness = make_engine(FP32, folder=tiny[0], prefix_dir=tmp_path)
    instructions = [(7 * j) % 60 for j in range(32)]
    for i in range(40):
        harness.run({f"chat{i}": instructions + [i + 1] * 60}, max_tokens=4, ignore_eos=True)
    harness.core.serving.store.files.flush()
    assert len(list(tmp_path.rglob("*.kv"))) == 2, "the instructions, and none of the forty questions"
    prompt = [3, 1, 4, 1, 5] * 10
    harness.run({"a": prompt, "b": prompt}, max_tokens=4, ignore_eos=True)  # computed at once, by two sequences
    harness.core.serving.store.files.flush()
    assert len(list(tmp_path.rglob("*.kv"))) == 2 + 3
    harness.core.close()


def test_what_was_evicted_and_comes_again_is_written(make_engine: Any, tiny: Any, tmp_path: Path) -> None:
    block_bytes = 2 * 2 * 1 * 16 * 16 * 4
    harness = make_engine(
        FP32, folder=tiny[0], prefix_dir=tmp_path, kv_cache_bytes=8 * block_bytes, max_model_len=96
    )
    document = [9] * 60
    harness.run({"first": document}, max_tokens=2)
    for i in range(4):
        harness.run({f"other{i}": [i + 1] * 60}, max_tokens=2)
    harness.core.serving.store.files.flush()
    assert not list(tmp_path.rglob("*.kv"))
    harness.run({"again": document}, max_tokens=2)
    assert harness.out.finished("again").usage.cached_tokens == 0
    harness.core.close()
    assert len(list(tmp_path.rglob("*.kv"))) == 3


def test_few_blocks_are_copied_in_one_turn(make_engine: Any, tiny: Any, tmp_path: Path) -> None:
    harness = make_engine(FP32, folder=tiny[0], prefix_dir=tmp_path)
    core, copied = harness.core, []
    read = core.serving.attention.read_block
    core.serving.attention.read_block = lambda block: copied.append(block) or read(block)
    prompt = [(5 * j) % 61 for j in range(220)]
    once(harness, "cold", prompt)
    harness.add("warm", prompt, max_tokens=12, ignore_eos=True)
    while core.has_work:
        before = len(copied)
        core.step()
        assert len(copied) - before <= KEPT_A_TURN
    assert len(copied) == (220 + 11) // 16 > KEPT_A_TURN  # the answer came again too
    core.close()
