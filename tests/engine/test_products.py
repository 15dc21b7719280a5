"""Products with weights in 16 and 8 bits, in every way that this processor can compute them, are the same."""

from __future__ import annotations

import ctypes
import platform
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.engine.kernels.abi import SIGNATURES
from backend.engine.kernels.build import HERE
from backend.engine.memory import Arena
from backend.engine.quantization.hadamard import order_for, rotated
from backend.engine.quantization.kernel import KernelLinear, way
from tests.engine.compiled import compiled, linked

X86 = platform.machine() in ("x86_64", "AMD64")
EMULATED = f'-DTENFOLD_EMULATED_AMX="{Path(__file__).with_name("emulated_amx.h")}"'
PLAINEST = ["-O1", *(["-march=x86-64"] if X86 else [])]
AMX = "AMX, for few rows the compiler's vectors"
WAYS = {
    "best": [], "the compiler's vectors": PLAINEST, AMX: [*PLAINEST, EMULATED],
    **({"AVX2": ["-mno-avx512f"]} if X86 else {}),
}  # fmt: skip
"""What the compiler is told beside its flags, so that this processor's better instructions are left out."""
ROWS = [*range(1, 34), 100]
SHAPES = [(96, 64), (33, 20), (100, 36), (64, 576)]


@pytest.fixture(scope="module", params=WAYS)
def products(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    sources = [HERE / name for name in ("gemm.cpp", "team.cpp")]
    library = linked(tmp_path_factory.mktemp("products") / "products.so", sources, WAYS[request.param])
    loaded = ctypes.CDLL(str(library))
    for name, (arguments, result) in SIGNATURES.items():
        if hasattr(loaded, name):
            function = getattr(loaded, name)
            function.argtypes, function.restype = arguments, result
    if X86 and request.param != "best":
        assert way(loaded) == request.param
    return loaded


def hadamard(order: int) -> np.ndarray:
    """Sylvester's matrix."""
    return np.ones((1, 1)) if order == 1 else np.kron(np.array([[1, 1], [1, -1]]), hadamard(order // 2))


def by_the_book(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Rows and columns in 8 bits each with a scale, exact sums, in float32 and in the kernel's order."""
    one = np.float32(1)
    tops = np.maximum(np.abs(weight).max(1), np.float32(1e-8))
    columns = np.rint(weight * (np.float32(127) / tops)[:, None]).astype(np.int64)
    scales = np.maximum(np.abs(x).max(1), np.float32(1e-8)) / np.float32(127)
    rows = np.rint(x * (one / scales)[:, None]).astype(np.int64)
    sums = (rows @ columns.T).astype(np.float32)
    return np.asarray(sums * (tops / np.float32(127)) * scales[:, None])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_eight_bits_are_those_of_the_book_to_the_bit(products: ctypes.CDLL, shape: tuple[int, int]) -> None:
    out, inner = shape
    draw = np.random.default_rng(out)
    weight = draw.standard_normal((out, inner), dtype=np.float32)
    layer = KernelLinear(torch.from_numpy(weight), None, products, Arena(), bits=8, logits=True)
    x = draw.standard_normal((max(ROWS), inner), dtype=np.float32) * draw.lognormal(size=(max(ROWS), 1)).astype("f4")
    expected = by_the_book(x, weight)
    for rows in ROWS:
        assert np.array_equal(layer(torch.from_numpy(x[:rows])).numpy(), expected[:rows]), rows


@pytest.mark.parametrize("inner", [64, 576, 1536, 48])
def test_rotated_rows_are_those_of_the_book_to_the_bit(products: ctypes.CDLL, inner: int) -> None:
    order = order_for(inner)
    draw = np.random.default_rng(inner)
    whole = draw.integers(-1000, 1000, (max(ROWS), inner)).astype("f4")  # so that additions are exact in any order
    blocks = np.kron(np.eye(inner // order), hadamard(order))
    assert np.array_equal(rotated(torch.from_numpy(whole), order).numpy(), whole @ blocks)
    weight = draw.standard_normal((40, inner), dtype=np.float32)
    layer = KernelLinear(torch.from_numpy(weight), None, products, Arena(), bits=8, logits=True, rotates=True)
    turned = rotated(torch.from_numpy(weight), order).numpy() / np.float32(order)
    x = draw.standard_normal((max(ROWS), inner), dtype=np.float32)
    x[:, 3] *= 200  # an outlier
    out = layer(torch.from_numpy(x)).numpy()
    assert np.array_equal(out, by_the_book(rotated(torch.from_numpy(x), order).numpy(), turned))
    wanted = x.astype("f8") @ weight.T.astype("f8")
    plain = KernelLinear(torch.from_numpy(weight), None, products, Arena(), bits=8, logits=True)
    lost, unrotated = (np.linalg.norm(y - wanted) for y in (out, plain(torch.from_numpy(x)).numpy()))
    assert lost < 0.6 * unrotated, "it is there for outliers"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_row_is_the_same_alone_and_in_a_batch(products: ctypes.CDLL, shape: tuple[int, int]) -> None:
    out, inner = shape
    torch.manual_seed(out)
    weight, bias, x = torch.randn(out, inner), torch.randn(out), torch.randn(max(ROWS), inner)
    layer = KernelLinear(weight, bias, products, Arena(), bits=16, logits=True)
    whole = layer(x)
    wanted = x.double() @ weight.bfloat16().double().T + bias
    assert float((whole - wanted).norm() / wanted.norm()) < 0.003, "bf16 rows; in float32 they are 1e-7"
    for rows in ROWS:
        assert torch.equal(layer(x[:rows]), whole[:rows]), rows


def test_tiles_that_are_not_wanted_or_do_not_fit_are_left_alone(products: ctypes.CDLL) -> None:
    draw = np.random.default_rng(3)
    x = torch.from_numpy(draw.standard_normal((40, 128), dtype=np.float32))
    weight = torch.from_numpy(draw.standard_normal((70, 128), dtype=np.float32))
    layer = KernelLinear(weight, None, products, Arena(), bits=8, logits=True)
    with_tiles = layer(x)
    products.tenfold_use_tiles(0)
    try:
        assert "AMX" not in way(products)
        assert torch.equal(layer(x), with_tiles)
    finally:
        products.tenfold_use_tiles(1)
    odd = KernelLinear(weight[:, :100].contiguous(), None, products, Arena(), bits=16, logits=True)  # no whole tiles
    wanted = x[:, :100].double() @ weight[:, :100].bfloat16().double().T
    assert float((odd(x[:, :100]) - wanted).norm() / wanted.norm()) < 0.003


@pytest.mark.skipif(not X86, reason="names x86 processors")
@pytest.mark.parametrize("processor", ["skylake-avx512", "icelake-server", "sapphirerapids"])
def test_the_kernels_can_be_compiled_for_processors_that_are_not_here(processor: str) -> None:
    for source in ("gemm.cpp", "encoder.cpp", "attention.cpp"):
        try:
            compiled(HERE / source, [f"-march={processor}", "-fsyntax-only"])
        except subprocess.CalledProcessError as error:
            pytest.fail(error.stderr.decode()[-2000:])
