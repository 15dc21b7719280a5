"""Products with weights in 16 and 8 bits, in every way that this processor can compute them, are the same."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess

import numpy as np
import pytest
import torch

from backend.engine.kernels.abi import NativeLinear
from backend.engine.kernels.build import FLAGS, HERE
from backend.engine.memory import Arena
from backend.engine.quantization.kernel import KernelLinear, way

COMPILER = shutil.which("g++") or shutil.which("clang++")
X86 = platform.machine() in ("x86_64", "AMD64")
WAYS = {"best": [], "AVX2": ["-mno-avx512f"], "the compiler's vectors": ["-march=x86-64"]} if X86 else {"best": []}
"""What the compiler is told beside its flags, so that this processor's better instructions are left out."""
ROWS = [*range(1, 34), 100]
SHAPES = [(96, 64), (33, 20), (100, 36), (64, 576)]


@pytest.fixture(scope="module", params=WAYS)
def products(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    assert COMPILER is not None, "the kernels were not built either"
    library = tmp_path_factory.mktemp("products") / "products.so"
    sources = [str(HERE / name) for name in ("gemm.cpp", "team.cpp")]
    command = [COMPILER, *FLAGS, *WAYS[request.param], *sources, "-o", str(library)]
    subprocess.run(command, check=True, capture_output=True)
    loaded = ctypes.CDLL(str(library))
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    loaded.tenfold_way.restype = ctypes.c_char_p
    loaded.tenfold_pack_bf16.argtypes = [pointer, integer, integer, pointer]
    loaded.tenfold_pack_int8.argtypes = [pointer, integer, integer, *[pointer] * 3]
    loaded.tenfold_multiply.argtypes = [ctypes.POINTER(NativeLinear), integer, pointer, pointer, integer, integer]
    if request.param != "best":
        assert way(loaded) == request.param
    return loaded


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


@pytest.mark.skipif(not X86, reason="names x86 processors")
@pytest.mark.parametrize("processor", ["skylake-avx512", "icelake-server", "sapphirerapids"])
def test_the_kernels_can_be_compiled_for_processors_that_are_not_here(processor: str) -> None:
    assert COMPILER is not None, "the kernels were not built either"
    flags = [flag for flag in FLAGS if not flag.startswith("-march")]
    for source in ("gemm.cpp", "attention.cpp"):
        command = [COMPILER, *flags, f"-march={processor}", "-fsyntax-only", str(HERE / source)]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr[-2000:]
