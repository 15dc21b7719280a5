"""Which products serve is measured: a wrong or refusing way is never chosen, the outcome is remembered, a pin holds."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.engine.about import TriedProducts
from backend.engine.kernels.build import load_cpu_kernels
from backend.engine.quantization import choice
from backend.engine.quantization.choice import OWN, TILES, TORCH, choose_products
from backend.engine.quantization.kernel import serves, way
from backend.engine.switches import Switches

SHAPES = [(96, 64), (64, 96), (96, 64)]


@pytest.fixture
def kernels(cache_dir: Path) -> Iterator[ctypes.CDLL]:
    """The library, as it was before afterwards: what is chosen holds for the process."""
    library = load_cpu_kernels(cache_dir)
    before = dict(choice_state())
    tiles = "AMX" in way(library)
    yield library
    choice_state().clear()
    choice_state().update(before)
    library.tenfold_use_tiles(int(tiles))


def choice_state() -> dict[tuple[int, int], bool]:
    from backend.engine.quantization import kernel

    return kernel._serving


def test_what_serves_was_tried_and_is_remembered(
    kernels: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = choose_products(kernels, SHAPES, tmp_path, 1)
    assert {one.way for one in tried} >= {OWN, TORCH} and all(one.wide_ms > 0 for one in tried if not one.problem)
    assert serves(kernels, 16) is (tried[0].way != TORCH) and serves(kernels, 8)

    def tried_again(*_: Any) -> None:
        raise AssertionError("it is known")

    monkeypatch.setattr(choice, "_try_all", tried_again)
    assert choose_products(kernels, SHAPES, tmp_path, 1) == tried
    with pytest.raises(AssertionError, match="it is known"):
        choose_products(kernels, [(32, 32)], tmp_path, 1)  # another model


def test_a_way_that_is_wrong_or_refuses_is_never_chosen(
    kernels: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = choice._ours

    class Wrong:
        def __init__(self, linear: Any) -> None:
            self._linear = linear

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self._linear(x)
            return out * (1.5 if len(x) == 8 else 1.0)  # only in some batches

    monkeypatch.setattr(choice, "_ours", lambda library, bits: lambda weight: Wrong(real(library, bits)(weight)))
    chosen, *others = choose_products(kernels, SHAPES, tmp_path, 1, OWN)
    assert chosen.way == TORCH and not serves(kernels, 16) and not serves(kernels, 8)
    assert any("8 rows in 16 bits are" in one.problem for one in others)

    def refuses(weight: torch.Tensor) -> None:
        raise RuntimeError("not on this processor")

    monkeypatch.setattr(choice, "_ours", real)
    monkeypatch.setattr(choice, "_torchs", refuses)
    chosen = choose_products(kernels, [(64, 64)], tmp_path, 1)[0]
    assert chosen.way != TORCH and serves(kernels, 16)
    assert len(list((tmp_path / "kernels").iterdir())) == 1, "what may pass is not remembered; a wrong result is"


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"way": 1}]'])
def test_a_damaged_memory_is_measured_again(kernels: ctypes.CDLL, tmp_path: Path, text: str) -> None:
    choose_products(kernels, SHAPES, tmp_path, 1)
    (file,) = (tmp_path / "kernels").glob("products-*.json")
    file.write_text(text)
    assert choose_products(kernels, SHAPES, tmp_path, 1)[0].wide_ms > 0
    assert len(json.loads(file.read_text())) >= 2


def test_the_faster_of_ours_unless_torch_is_clearly_faster() -> None:
    tiles, own = TriedProducts(TILES, "tiles", 10, 10), TriedProducts(OWN, "own", 12, 5)
    torchs = TriedProducts(TORCH, "torch", 11.5, 0)
    assert choice._fastest([tiles, own, torchs]) is own
    assert choice._fastest([replace(tiles, bytes_ms=6), own, torchs]).way == TILES
    assert choice._fastest([own, replace(torchs, wide_ms=8)]).way == TORCH
    assert choice._fastest([torchs]) is torchs


@pytest.mark.parametrize(("pinned", "own"), [("own", True), ("torch", False)])
def test_a_setting_pins_one(
    kernels: ctypes.CDLL, make_engine: Any, tiny: tuple[Path, Any], pinned: str, own: bool
) -> None:
    harness = make_engine(Switches(quantization="int8"), folder=tiny[0], products=pinned)
    info = harness.core.info()
    assert info.tried_products[0].way == pinned and serves(kernels, 16) is serves(kernels, 8) is own
    assert info.products == (f"our own, {way(kernels)}" if own else "torch")
    assert len(harness.run({"r": [1, 2, 3]}, max_tokens=3, ignore_eos=True)["r"]) == 3
