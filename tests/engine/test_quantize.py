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
def test_a_row_in_float32_beside_8_bits_is_the_same_alone_and_in_a_batch() -> None:
    torch.manual_seed(0)
    layer = PackedLinear(torch.randn(960, 576), torch.randn(960), torch.float32)
    batch = torch.randn(33, 576)
    whole = layer(batch)
    assert all(torch.equal(layer(batch[:rows]), whole[:rows]) for rows in (1, 2, 3, 4, 8, 16))


@pytest.mark.skipif("x86" not in torch.backends.quantized.supported_engines, reason="torch has no x86 engine here")
def test_a_row_in_8_bits_is_the_same_alone_and_in_a_batch_without_our_kernels() -> None:
    torch.manual_seed(0)
    layer = RowScaledInt8Linear(torch.randn(96, 64), torch.randn(96))
    batch = torch.randn(9, 64) + torch.linspace(-2, 2, 9).unsqueeze(1)  # the rows' ranges differ
    assert torch.equal(torch.cat([layer(row.unsqueeze(0)) for row in batch]), layer(batch))
