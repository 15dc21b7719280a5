"""The threads that share the work: many more of them than cores, so that they lose theirs in the middle of a piece."""

from __future__ import annotations

import ctypes
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from backend.engine.kernels.build import HERE, load_cpu_kernels
from backend.engine.memory import Arena
from backend.engine.quantization.kernel import KernelLinear
from tests.engine.compiled import linked

CROWD = 8
ROUNDS = 120


@pytest.fixture
def crowd(cache_dir: Path) -> Iterator[ctypes.CDLL]:
    kernels = load_cpu_kernels(cache_dir)
    kernels.tenfold_set_threads(CROWD)
    yield kernels
    kernels.tenfold_set_threads(torch.get_num_threads())


def layer(kernels: ctypes.CDLL, bits: int) -> KernelLinear:
    torch.manual_seed(bits)
    return KernelLinear(torch.randn(1024, 576), torch.randn(1024), kernels, Arena(), bits=bits, logits=True)


def check(linear: KernelLinear, x: torch.Tensor, expected: torch.Tensor, wrong: list[int]) -> None:
    for i in range(ROUNDS):
        rows = 1 + i % len(x)
        # The rows are a copy that is gone after the call: whoever is late must not read it, nor write what came of it.
        if not torch.equal(linear(x[:rows].clone()), expected[:rows]):
            wrong.append(i)


def test_who_comes_late_for_a_piece_does_no_harm(tmp_path: Path) -> None:
    """Helpers lose their core at the worst moment: between taking a piece and looking whose it is."""
    sources = [HERE / "team.cpp", Path(__file__).with_name("late_helper.cpp")]
    program = str(linked(tmp_path / "late", sources, ["-O1", "-DTENFOLD_STALLS=25"], program=True))
    result = subprocess.run([program], capture_output=True, text=True, timeout=120)
    assert result.stdout.split() == ["0", "0"], "pieces missing at a job's end, and pieces done twice"


@pytest.mark.parametrize("bits", [16, 8])
def test_what_a_thread_that_lost_its_core_held_is_done_once(crowd: ctypes.CDLL, bits: int) -> None:
    linear, x = layer(crowd, bits), torch.randn(24, 576)
    crowd.tenfold_set_threads(1)
    expected = linear(x)
    crowd.tenfold_set_threads(CROWD)
    wrong: list[int] = []
    check(linear, x, expected, wrong)
    assert wrong == []


def test_callers_at_once_do_not_wait_for_each_other_and_are_all_right(crowd: ctypes.CDLL) -> None:
    x, wrong, threads = torch.randn(24, 576), list[int](), []
    for bits in (16, 8, 16):
        linear = layer(crowd, bits)
        threads.append(threading.Thread(target=check, args=(linear, x, linear(x), wrong)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads) and wrong == []
