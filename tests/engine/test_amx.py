"""What is built of AMX's tiles, where no processor has them: the instructions in plain C++ (emulated_amx.h) beneath it.

What the decoder and the encoder give with tiles is what they give without: to the bit in 8 bits.
"""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from backend import packaged
from backend.engine.attention.base import AttentionShape, NewTokens, PagedAttention, make_batch, one_sequence
from backend.engine.attention.cpu import KernelAttention
from backend.engine.attention.gather import GatherAttention
from backend.engine.config import blocks_for
from backend.engine.embedding.kernel import KernelForward
from backend.engine.embedding.weights import read_encoder_shape, read_weights
from backend.engine.kernels.abi import MIRRORS, check_sizes, declare
from backend.engine.kernels.build import SOURCES, load_cpu_kernels
from backend.engine.model.decoder import Decoder
from backend.engine.quantization.kernel import way
from backend.models.checkpoint import resolve
from backend.models.random_model import write
from tests.engine.compiled import linked
from tests.engine.test_products import AMX, WAYS, X86

CPU = torch.device("cpu")
TEXTS = [[101, *range(2000, 2000 + n), 102] for n in (1, 5, 30, 77)]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """All kernels, with tiles emulated."""
    file = linked(tmp_path_factory.mktemp("amx") / "amx.so", SOURCES, WAYS[AMX])
    library = ctypes.CDLL(str(file))
    check_sizes(library, MIRRORS)
    library = declare(library)
    assert library.tenfold_has_tiles() and (way(library) == AMX or not X86)
    return library


def both(kernels: ctypes.CDLL, work: Callable[[], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """With tiles and without."""
    with_tiles = work()
    kernels.tenfold_use_tiles(0)
    try:
        return with_tiles, work()
    finally:
        kernels.tenfold_use_tiles(1)


@pytest.fixture(scope="module")
def decoder_folder(tmp_path_factory: pytest.TempPathFactory, chat_folder: Path) -> Path:
    folder = write("tiny", tmp_path_factory.mktemp("tiny") / "tiny")
    shutil.copy(chat_folder / "tokenizer.json", folder)
    return folder


@pytest.mark.parametrize(("variant", "far"), [("int8", 0.02), ("bf16", 0.02)])
def test_the_decoder_answers_with_tiles_as_without(
    kernels: ctypes.CDLL, decoder_folder: Path, variant: str, far: float
) -> None:
    decoder = Decoder(decoder_folder, variant, CPU, kernels)
    assert decoder.variant == variant

    def logits(count: int) -> np.ndarray:
        attention = decoder.make_attention()
        attention.allocate(blocks_for(40))
        ids = list(range(100, 100 + count))
        return decoder.forward(one_sequence(ids, list(range(count))), attention).numpy()

    tiles, without = both(kernels, lambda: logits(37))
    assert np.abs(tiles - without).max() < far * np.abs(without).max(), "its logits are 16 bits in either variant"
    for count in (1, 4, 5, 16, 33):
        assert np.array_equal(logits(count), tiles[:count]), "a row is the same whatever is beside it"


def test_the_encoder_gives_the_same_vectors_to_the_bit(kernels: ctypes.CDLL, cache_dir: Path) -> None:
    folder = resolve(packaged.EMBEDDING_MODEL, cache_dir)
    shape = read_encoder_shape(folder)
    encoder = KernelForward(folder, shape, read_weights(folder, shape), kernels, bits=8)
    tiles, without = both(kernels, lambda: encoder(TEXTS))
    assert np.array_equal(tiles, without)


HEADS = [(6, 2, 32), (9, 3, 64), (20, 1, 64), (4, 4, 96), (4, 2, 128), (2, 1, 256)]


@pytest.mark.parametrize(("heads", "kv_heads", "head_size"), HEADS)
@pytest.mark.parametrize("emulated", [True, False])
def test_attention_by_tiles_is_plain_attention_and_a_rows_own(
    kernels: ctypes.CDLL, cache_dir: Path, heads: int, kv_heads: int, head_size: int, emulated: bool
) -> None:
    """Prompts read whole, in pieces and beside others; contexts that end within a page, a group and a segment."""
    shape = AttentionShape(1, heads, kv_heads, head_size)
    torch.manual_seed(head_size)
    length = 300
    qkv = torch.randn(length, (heads + 2 * kv_heads) * head_size).bfloat16()
    cosine, sine = torch.ones(length, head_size // 2), torch.zeros(length, head_size // 2)

    def attended(attention: PagedAttention, pieces: list[list[tuple[int, int, int]]]) -> dict[int, torch.Tensor]:
        """Of sequences that are begun anew: steps of (sequence, from, to)."""
        attention.allocate(3 * blocks_for(length))
        out: dict[int, torch.Tensor] = {s: torch.zeros(length, heads * head_size) for s in range(3)}
        for step in pieces:
            parts = [
                NewTokens([0] * (to - at), range(at, to), np.arange(blocks_for(length), dtype=np.int32) * 3 + s)
                for s, at, to in step
            ]
            batch = make_batch(parts, [0], CPU)
            attention.prepare(batch)
            rows = torch.cat([qkv[at:to] for _, at, to in step]).to(attention.dtype)
            found = attention.forward(0, rows, batch, cosine, sine, rotate=False).float()
            for (s, at, to), part in zip(step, found.split([to - at for _, at, to in step]), strict=True):
                out[s][at:to] = part
        return out

    plain = attended(GatherAttention(shape, torch.float32, CPU), [[(0, 0, length)]])[0]
    library = kernels if emulated else load_cpu_kernels(cache_dir)
    whole = attended(KernelAttention(shape, torch.bfloat16, library), [[(0, 0, length)]])[0]
    assert float((whole - plain).norm() / plain.norm()) < 0.01
    mixed = attended(
        KernelAttention(shape, torch.bfloat16, library),
        [
            [(0, 0, 7), (1, 0, 250)], [(1, 250, 255), (0, 7, 8)], [(0, 8, 271)],
            [(2, 0, 5), (1, 255, 256), (0, 271, 272)],
        ],
    )  # fmt: skip
    for sequence, end in ((0, 272), (1, 256), (2, 5)):
        assert torch.equal(mixed[sequence][:end], whole[:end]), "a row is the same however it was reached"
