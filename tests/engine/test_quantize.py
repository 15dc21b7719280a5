"""Our matrix products equal the float32 product within what their precision allows, for every tile and tail."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from backend.engine.kernels import load_cpu_kernels
from backend.engine.memory import Arena
from backend.engine.quantize import KernelLinear, RowScaledInt8Linear

TOLERANCE = {16: 0.004, 8: 0.02}
"""Relative error (Frobenius norm) of a product, by bits."""


@pytest.mark.parametrize("bits", [16, 8])
@pytest.mark.parametrize(("out", "inner"), [(960, 576), (576, 1536), (100, 64), (33, 20)])
def test_products_equal_float32(cache_dir: Path, bits: int, out: int, inner: int) -> None:
    kernels = load_cpu_kernels(cache_dir)
    if not KernelLinear.usable(kernels):
        pytest.skip("this processor lacks AVX-512 BF16 and VNNI; other layers serve here")
    torch.manual_seed(0)
    weight, bias = torch.randn(out, inner) * 0.05, torch.randn(out)
    layer = KernelLinear(weight, bias, kernels, Arena(), bits=bits, logits=True)
    for rows in (1, 2, 5, 8, 12, 16, 33, 100, 200):
        x = torch.randn(rows, inner).bfloat16()
        wanted = x.float() @ weight.T + bias
        assert float((layer(x) - wanted).norm() / wanted.norm()) < TOLERANCE[bits]


@pytest.mark.skipif("x86" not in torch.backends.quantized.supported_engines, reason="needs torch's x86 kernels")
def test_a_portable_8_bit_row_is_the_same_whatever_is_beside_it() -> None:
    torch.backends.quantized.engine = "x86"
    torch.manual_seed(0)
    weight = torch.randn(96, 64) * 0.05
    layer, x = RowScaledInt8Linear(weight, None), torch.randn(40, 64)
    x[::2] = x[::2].abs()  # rows of another range than their neighbours
    together = layer(x)
    assert torch.equal(together, torch.cat([layer(row) for row in x.split(1)]))
    wanted = x @ weight.T
    assert float((together - wanted).norm() / wanted.norm()) < 0.02
