"""Engines in this process, and the oracle they are checked against: transformers with the same weights."""

from __future__ import annotations

import gc
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.engine.config import EngineConfig
from backend.engine.core import EngineCore
from backend.engine.kernels.build import _processor
from backend.engine.messages import Failed, Finished, Generate, SamplingParams, StepOutput
from backend.engine.remembered import recall, remember
from backend.engine.switches import Switches
from backend.models.checkpoint import fingerprint

LENGTH = int(os.environ.get("TENFOLD_TOKENS", "18"))
"""Greedy tokens that are compared of each prompt, more than a block; TENFOLD_TOKENS=64 for as many as the README
reports."""
VOCAB = 64
"""Of the tiny model."""

QUESTIONS = [
    "The capital of France is",
    "Water boils at a temperature of",
    "Once upon a time, in a village by the sea, there lived",
    "def fibonacci(n):",
    "The three primary colours are",
    "In 1969, the first human being",
    "To bake a loaf of bread you need flour, water,",
    "The opposite of hot is",
]


class Outbox:
    """Everything an engine emitted, by request."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    def __call__(self, message: Any) -> None:
        self.messages.append(message)

    def tokens(self, request_id: str) -> list[int]:
        return [t for m in self.messages if isinstance(m, StepOutput) for r, t, _ in m.tokens if r == request_id]

    def finished(self, request_id: str) -> Finished:
        return next(m for m in self.messages if isinstance(m, Finished) and m.request_id == request_id)

    def failed(self, request_id: str) -> Failed | None:
        return next((m for m in self.messages if isinstance(m, Failed) and m.request_id == request_id), None)

    def of(self, kind: type) -> list[Any]:
        return [m for m in self.messages if isinstance(m, kind)]


class Harness:
    """An `EngineCore` with its outbox."""

    def __init__(self, folder: Path, cache_dir: Path, switches: Switches, **settings: Any) -> None:
        self.out = Outbox()
        settings = {"products": "own", **settings}  # what is faster for so small a model says the day's weather
        self.core = EngineCore(
            EngineConfig(model=str(folder), cache_dir=cache_dir, switches=switches, **settings), self.out
        )

    def add(self, request_id: str, prompt: list[int], **sampling: Any) -> None:
        path = sampling.pop("path", "realtime")
        self.core.handle(Generate(request_id, prompt, SamplingParams(**sampling), path=path))

    def drain(self) -> None:
        while self.core.has_work:
            self.core.step()
        self.core.requests.check_integrity()

    def run(self, prompts: dict[str, list[int]], **sampling: Any) -> dict[str, list[int]]:
        for request_id, prompt in prompts.items():
            self.add(request_id, prompt, **sampling)
        self.drain()
        return {request_id: self.out.tokens(request_id) for request_id in prompts}


@pytest.fixture
def make_engine(chat_folder: Path, cache_dir: Path) -> Iterator[Callable[..., Harness]]:
    def make(switches: Switches | None = None, folder: Path | None = None, **settings: Any) -> Harness:
        return Harness(folder or chat_folder, cache_dir, switches or Switches(quantization="fp32"), **settings)

    yield make
    gc.collect()  # a core knows its parts and they know it: else several would hold their weights at once


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A Llama of two layers that answers in no time, as a folder and as transformers' model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=256, eos_token_id=None, bos_token_id=None,
            initializer_range=0.5,
        )
    ).eval()
    folder = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(folder)
    return folder, model


@pytest.fixture(scope="session")
def oracle(chat_folder: Path) -> Any:
    """transformers' own SmolLM2 in fp32."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(chat_folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None  # every prompt runs to its full length
    return model


@pytest.fixture(scope="session")
def prompts(chat_folder: Path) -> list[list[int]]:
    """Token ids of eight short prompts of different lengths."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(chat_folder / "tokenizer.json"))
    return [tokenizer.encode(text).ids for text in QUESTIONS]


@pytest.fixture(scope="session")
def expected(
    request: pytest.FixtureRequest, chat_folder: Path, cache_dir: Path, prompts: list[list[int]]
) -> list[list[int]]:
    """`LENGTH` greedy tokens of each prompt by transformers' `generate` in fp32, end tokens ignored.

    Kept between runs by whatever they depend on: they take longer than any of what is held against them.
    """
    basis = [fingerprint(chat_folder, cache_dir), version("transformers"), torch.__version__, _processor()]
    digest = hashlib.sha256(json.dumps([*basis, LENGTH, prompts]).encode()).hexdigest()[:16]
    file = cache_dir / "expected" / f"{digest}.json"
    kept: list[list[int]] | None = recall(file)
    if kept is None:
        oracle = request.getfixturevalue("oracle")
        kept = []
        for prompt in prompts:
            ids = torch.tensor([prompt])
            generated = oracle.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=LENGTH, do_sample=False
            )
            kept.append(generated[0, len(prompt) :].tolist())
        remember(file, kept)
    return kept
