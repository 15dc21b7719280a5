"""Our matrix products equal the float32 product within what their precision allows, for every tile and tail."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from backend.engine.kernels.build import load_cpu_kernels
from backend.engine.memory import Arena
from backend.engine.quantization.kernel import KernelLinear
from backend.engine.quantization.portable import PackedLinear, RowScaledInt8Linear

TOLERANCE = {16: 0.004, 8: 0.02}
"""Relative error (Frobenius norm) of a product, by bits."""


@pytest.mark.parametrize("bits", [16, 8])
@pytest.mark.parametrize(("out", "inner"), [(960, 576), (576, 1536), (100, 64), (33, 20)])
def test_products_equal_float32(cache_dir: Path, bits: int, out: int, inner: int) -> None:
    kernels = load_cpu_kernels(cache_dir)
    torch.manual_seed(0)
    weight, bias = torch.randn(out, inner) * 0.05, torch.randn(out)
    layer = KernelLinear(weight, bias, kernels, Arena(), bits=bits, logits=True)
    for rows in (1, 2, 5, 8, 12, 16, 33, 100, 200):
        x = torch.randn(rows, inner).bfloat16()
        wanted = x.float() @ weight.T + bias
        assert float((layer(x) - wanted).norm() / wanted.norm()) < TOLERANCE[bits]


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("out", [960, 3072])
def test_a_row_of_onednns_product_is_the_same_alone_and_in_a_batch(dtype: torch.dtype, out: int) -> None:
    torch.manual_seed(0)
    layer = PackedLinear(torch.randn(out, 576), torch.randn(out), dtype)
    batch = torch.randn(70, 576).to(dtype)
    whole = layer(batch)
    assert all(torch.equal(layer(batch[:rows]), whole[:rows]) for rows in (1, 2, 3, 4, 8, 16, 31, 33, 64))


@pytest.mark.skipif("x86" not in torch.backends.quantized.supported_engines, reason="torch has no x86 engine here")
def test_a_row_in_8_bits_is_the_same_alone_and_in_a_batch_without_our_kernels() -> None:
    torch.manual_seed(0)
    layer = RowScaledInt8Linear(torch.randn(96, 64), torch.randn(96))
    batch = torch.randn(9, 64) + torch.linspace(-2, 2, 9).unsqueeze(1)  # the rows' ranges differ
    assert torch.equal(torch.cat([layer(row.unsqueeze(0)) for row in batch]), layer(batch))
