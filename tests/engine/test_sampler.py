"""Sampling draws from the distribution it says, repeats with a seed in any company, and reports its probabilities."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from backend.engine.messages import Generate, SamplingParams
from backend.engine.sampler import sample
from backend.engine.sequence import Sequence

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0])


def draws(count: int = 4000, **params: Any) -> Counter[int]:
    seqs = [Sequence(Generate(f"r{i}", [0], SamplingParams(**params, seed=i)), 1) for i in range(count)]
    tokens, _ = sample(LOGITS.repeat(count, 1), seqs)
    return Counter(tokens)


def frequencies(counts: Counter[int]) -> list[float]:
    total = sum(counts.values())
    return [counts[i] / total for i in range(len(LOGITS))]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_softmax(temperature: float) -> None:
    wanted = torch.softmax(LOGITS / temperature, dim=0).tolist()
    assert frequencies(draws(temperature=temperature)) == pytest.approx(wanted, abs=0.03)


def test_top_k_keeps_the_k_likeliest() -> None:
    wanted = torch.softmax(LOGITS[:2], dim=0).tolist()
    assert frequencies(draws(temperature=1.0, top_k=2)) == pytest.approx([*wanted, 0, 0, 0], abs=0.03)


def test_top_p_keeps_the_smallest_nucleus() -> None:
    p = torch.softmax(LOGITS, dim=0)
    nucleus = float(p[0] + p[1]) - 0.01  # needs exactly the first two
    assert set(draws(temperature=1.0, top_p=nucleus)) == {0, 1}


def test_min_p_drops_the_unlikely() -> None:
    p = torch.softmax(LOGITS, dim=0)
    assert set(draws(temperature=1.0, min_p=float(p[2] / p[0]) - 0.01)) == {0, 1, 2}


def test_temperature_zero_is_greedy() -> None:
    assert set(draws(200, temperature=0.0)) == {0}


def test_penalties_lower_what_was_said() -> None:
    def choose(tokens: list[int], **params: Any) -> int:
        seq = Sequence(Generate("r", tokens[:1], SamplingParams(**params)), 1)
        seq.tokens = tokens
        return sample(LOGITS.clone().unsqueeze(0), [seq])[0][0]

    assert choose([0, 0], presence_penalty=1.5) == 1
    assert choose([4, 0, 0, 0], frequency_penalty=0.6) == 1
    assert choose([0], frequency_penalty=2.0) == 0, "the prompt does not count for frequency and presence"
    assert choose([0], repetition_penalty=3.0) == 1, "for repetition it does"


def test_logprobs_are_of_the_model() -> None:
    seq = Sequence(Generate("r", [0], SamplingParams(logprobs=2)), 1)
    (token,), (logprob,) = sample(LOGITS.clone().unsqueeze(0), [seq])
    wanted = torch.log_softmax(LOGITS, dim=0)
    assert logprob is not None and token == 0
    assert logprob.chosen == pytest.approx(float(wanted[0]), abs=1e-5)
    assert [t for t, _ in logprob.top] == [0, 1]


def test_a_seed_repeats_alone_and_in_a_batch(make_engine: Any, prompts: list[list[int]]) -> None:
    harness = make_engine()
    params: dict[str, Any] = dict(temperature=0.9, top_p=0.95, seed=7, max_tokens=24, ignore_eos=True)
    alone = harness.run({"alone": prompts[2]}, **params)["alone"]
    for i, prompt in enumerate(prompts):
        harness.add(f"noise{i}", prompt, max_tokens=24, temperature=1.0)
    assert harness.run({"again": prompts[2]}, **params)["again"] == alone
    assert harness.run({"other": prompts[2]}, **{**params, "seed": 8})["other"] != alone
