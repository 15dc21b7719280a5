"""A bad request fails alone and at once; good ones beside it go on. Embeddings equal transformers'."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from backend import packaged
from backend.engine.messages import Embed, Embedded, Failed, Generate, SamplingParams
from backend.models.checkpoint import resolve

BAD: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "empty": ([], {}),
    "out of vocabulary": ([1, 49_152], {}),
    "negative": ([-1], {}),
    "too long": ([5] * 9000, {}),
    "no room for the answer": ([5] * 100, {"max_tokens": 9000}),
    "not a number": (["word"], {}),
    "NaN temperature": ([5], {"temperature": float("nan")}),
    "negative top_k": ([5], {"top_k": -5, "temperature": 1.0}),
    "top_p of zero": ([5], {"top_p": 0.0}),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_fails_alone(name: str, make_engine: Any, prompts: list[list[int]]) -> None:
    harness = make_engine()
    harness.add("good", prompts[0], max_tokens=8, ignore_eos=True)
    harness.core.step()
    tokens, params = BAD[name]
    harness.core.handle(Generate("bad", tokens, SamplingParams(**{"max_tokens": 8, **params})))
    failed = harness.out.failed("bad")
    assert failed is not None and failed.kind == "invalid" and failed.error
    harness.drain()
    assert len(harness.out.tokens("good")) == 8


def test_a_failing_step_fails_its_requests_and_not_the_engine(make_engine: Any, prompts: Any, monkeypatch: Any) -> None:
    harness = make_engine()
    harness.add("broken", prompts[0], max_tokens=8)
    with monkeypatch.context() as patch:
        patch.setattr(harness.core.serving.decoder, "forward", lambda *_: 1 / 0)
        harness.core.step()
    assert harness.out.of(Failed)
    harness.core.cache.check([])
    assert len(harness.run({"next": prompts[1]}, max_tokens=4, ignore_eos=True)["next"]) == 4


def test_abort_ends_a_request_at_once(make_engine: Any, prompts: Any) -> None:
    harness = make_engine()
    harness.add("r", prompts[0], max_tokens=64, ignore_eos=True)
    for _ in range(5):
        harness.core.step()
    harness.core.abort("r")
    assert harness.out.finished("r").reason == "abort"
    assert not harness.core.has_work
    harness.core.cache.check([])


def test_step_times_are_shared_out_completely(make_engine: Any, prompts: Any) -> None:
    harness = make_engine()
    harness.run({f"r{i}": p for i, p in enumerate(prompts)}, max_tokens=8, ignore_eos=True)
    shares = sum(harness.out.finished(f"r{i}").usage.compute_seconds for i in range(len(prompts)))
    assert shares == pytest.approx(harness.core.statistics.busy_seconds, rel=1e-6)


@pytest.mark.parametrize(("use_kernels", "quantize", "nearest"), [
    (False, False, 0.9995), (True, False, 0.9995), (True, True, 0.997),
])  # fmt: skip
def test_embeddings_equal_transformers(
    make_engine: Any, cache_dir: Any, use_kernels: bool, quantize: bool, nearest: float
) -> None:
    """In bf16 where the machine can, and in 8 bits up to what they cost."""
    from transformers import AutoModel, AutoTokenizer

    folder = resolve(packaged.EMBEDDING_MODEL, cache_dir)
    harness = make_engine(embedding_model=str(folder), use_kernels=use_kernels, quantize_embeddings=quantize)
    texts = ["a", "The harbour wakes before the sun.", "words " * 120, "Déjà vu 🙂", "The harbour wakes."]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    ids = [tokenizer(text, truncation=True, max_length=256)["input_ids"] for text in texts]
    harness.core.handle(Embed("e", ids))
    harness.drain()
    (answer,) = harness.out.of(Embedded)
    got = np.frombuffer(answer.vectors, dtype=np.float32).reshape(len(texts), -1)
    for vector, tokens in zip(got, ids, strict=True):
        with torch.no_grad():
            wanted = torch.nn.functional.normalize(model(torch.tensor([tokens])).last_hidden_state[0].mean(0), dim=0)
        assert float(wanted @ torch.from_numpy(vector.copy())) > nearest
    assert np.linalg.norm(got, axis=1) == pytest.approx(1.0, abs=1e-5)


def test_too_long_an_embedding_input_is_refused(make_engine: Any, cache_dir: Any) -> None:
    harness = make_engine(embedding_model=str(resolve(packaged.EMBEDDING_MODEL, cache_dir)))
    harness.core.handle(Embed("e", [[5] * 600]))
    assert "600 tokens" in harness.out.failed("e").error
