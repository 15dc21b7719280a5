"""The embedding model against transformers on the same weights, in 8 and 16 bits, and in torch."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModel, BertConfig, BertModel

from backend import packaged
from backend.engine.embedding import smoothing
from backend.engine.embedding.encoder import Encoder
from backend.engine.kernels.build import load_cpu_kernels
from backend.engine.model.weights import UnsupportedModelError
from backend.engine.quantization.kernel import is_fast
from backend.models.checkpoint import resolve
from tests.conftest import ROOT

CPU = torch.device("cpu")
LENGTHS = [1, 2, 3, 12, 13, 31, 32, 33, 64, 100, 120, 121, 200, 241, 511, 512]


@pytest.fixture(scope="module")
def folder(cache_dir: Path) -> Path:
    return resolve(packaged.EMBEDDING_MODEL, cache_dir)


@pytest.fixture(scope="module")
def texts(folder: Path) -> list[list[int]]:
    """Real sentences, cut to every length that a tile, a panel or a block ends at."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    samples = sorted((ROOT / "data" / "samples").glob("*.md"))
    ids = [token for sample in samples for token in tokenizer.encode(sample.read_text()).ids]
    return [ids[7 * i : 7 * i + length] for i, length in enumerate(LENGTHS)]


def expected(folder: Path, texts: list[list[int]], *, first: bool = False) -> np.ndarray:
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        states = [model(input_ids=torch.tensor([text])).last_hidden_state[0] for text in texts]
    pooled = torch.stack([state[0] if first else state.mean(0) for state in states])
    return torch.nn.functional.normalize(pooled, dim=-1).numpy()


def kernels(cache_dir: Path) -> object:
    library = load_cpu_kernels(cache_dir)
    if not is_fast(library):
        pytest.skip("this processor has nothing better than the compiler's vectors; torch embeds here")
    return library


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(1 - (a * b).sum(axis=1))


@pytest.mark.parametrize(("quantize", "mean", "worst"), [(True, 0.0015, 0.004), (False, 1e-4, 2e-4)])
def test_vectors_are_those_of_transformers(
    folder: Path, texts: list[list[int]], cache_dir: Path, quantize: bool, mean: float, worst: float
) -> None:
    got = Encoder(folder, CPU, kernels(cache_dir), quantize=quantize).embed(texts)  # type: ignore[arg-type]
    far = distances(got, expected(folder, texts))
    assert far.mean() < mean and far.max() < worst
    assert np.allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)


def test_torchs_vectors_are_those_of_transformers(folder: Path, texts: list[list[int]]) -> None:
    assert distances(Encoder(folder, CPU).embed(texts), expected(folder, texts)).max() < 2e-4


def test_a_vector_is_the_same_whatever_is_beside_it(folder: Path, texts: list[list[int]], cache_dir: Path) -> None:
    encoder = Encoder(folder, CPU, kernels(cache_dir))  # type: ignore[arg-type]
    together = encoder.embed(texts)
    shuffled = list(range(len(texts)))
    random.Random(1).shuffle(shuffled)
    assert (encoder.embed([texts[i] for i in shuffled]) == together[shuffled]).all()
    assert all((encoder.embed([text])[0] == row).all() for text, row in zip(texts, together, strict=True))


def test_torchs_vector_is_the_same_whatever_is_beside_it(folder: Path, texts: list[list[int]]) -> None:
    encoder = Encoder(folder, CPU)
    together = encoder.embed(texts)
    assert all((encoder.embed([text])[0] == row).all() for text, row in zip(texts, together, strict=True))


def random_model(at: Path, folder: Path, **change: object) -> Path:
    torch.manual_seed(5)
    sizes = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 224}
    model = BertModel(BertConfig(**{**sizes, **change}))  # type: ignore[arg-type]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "query.weight" in name or "key.weight" in name:
                weight *= 60  # attention to single tokens: scores beyond what 2 to them fits into
            elif "LayerNorm" not in name:
                weight *= 3
    model.save_pretrained(at)
    shutil.copy(folder / "tokenizer.json", at / "tokenizer.json")
    return at


@pytest.mark.parametrize("quantize", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_other_sizes_huge_scores_and_first_token_pooling(
    folder: Path, texts: list[list[int]], cache_dir: Path, tmp_path: Path, quantize: bool, first: bool
) -> None:
    other = random_model(tmp_path, folder)
    if first:
        (other / "1_Pooling").mkdir()
        (other / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    got = Encoder(other, CPU, kernels(cache_dir), quantize=quantize).embed(texts)  # type: ignore[arg-type]
    far = distances(got, expected(other, texts, first=first))
    # Where two tokens are nearly level and one takes all, a rounding decides which: not every text can be alike.
    assert np.median(far) < (0.005 if quantize else 5e-4) and np.isfinite(got).all()


def test_sizes_that_are_no_whole_panels_are_left_to_torch(
    folder: Path, texts: list[list[int]], cache_dir: Path, tmp_path: Path
) -> None:
    other = random_model(tmp_path, folder, hidden_size=96, num_attention_heads=4)
    encoder = Encoder(other, CPU, kernels(cache_dir))  # type: ignore[arg-type]
    assert encoder.precision.startswith("torch")
    assert distances(encoder.embed(texts), expected(other, texts)).mean() < 0.01


def test_another_kind_of_model_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
    with pytest.raises(UnsupportedModelError, match="roberta"):
        Encoder(tmp_path, CPU)


def test_what_smooths_its_products_is_kept_to_the_bit_and_made_again_where_it_is_damaged(
    folder: Path, texts: list[list[int]], cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, made = kernels(cache_dir), list[Path]()
    compute = smoothing.smoothing
    monkeypatch.setattr(smoothing, "smoothing", lambda at, *rest: made.append(at) or compute(at, *rest))

    def vectors() -> np.ndarray:
        return Encoder(folder, CPU, library, cache_dir=tmp_path).embed(texts[:4])  # type: ignore[arg-type]

    first = vectors()
    assert np.array_equal(vectors(), first) and len(made) == 1
    (file,) = (tmp_path / "quantized").glob("*-smoothing-*.json")
    whole = json.loads(file.read_text())
    for damaged in ("{", "[]", json.dumps({**whole, "0.qkv": [1.0]}), json.dumps({**whole, "0.qkv": "x"})):
        file.write_text(damaged)
        assert np.array_equal(vectors(), first)
    assert len(made) == 5 and json.loads(file.read_text()) == whole
    monkeypatch.setattr(smoothing, "ALPHA", 0.5)
    assert not np.array_equal(vectors(), first) and len(made) == 6, "other factors are of another name"
