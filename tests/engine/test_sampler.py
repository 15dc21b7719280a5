"""Sampling draws from the distribution it says, repeats with a seed in any company, and reports its probabilities."""

from __future__ import annotations

import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.engine import sampler
from backend.engine.kernels.build import load_cpu_kernels
from backend.engine.messages import Finished, Generate, SamplingParams
from backend.engine.sampler import sample
from backend.engine.sequence import Sequence
from backend.engine.validation import sampling_problem


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test of `sample` itself is of both ways to sample; an engine has its own."""
    if "make_engine" not in metafunc.fixturenames:
        metafunc.parametrize("by_kernels", [False, True], indirect=True)


@pytest.fixture(autouse=True)
def by_kernels(request: pytest.FixtureRequest, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if getattr(request, "param", False):
        kernels = load_cpu_kernels(cache_dir)
        monkeypatch.setattr(sys.modules[__name__], "sample", partial(sampler.sample, kernels=kernels))


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


# ---- a bad parameter is refused by name, whoever sends it --------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "negative logprobs": ({"logprobs": -1}, "logprobs"),
    "more logprobs than there are tokens": ({"logprobs": 1 << 20}, "logprobs"),
    "logprobs as a number with a point": ({"logprobs": 2.0}, "logprobs"),
    "logprobs as a flag": ({"logprobs": True}, "logprobs"),
    "prompt logprobs below zero": ({"prompt_logprobs": -1}, "prompt_logprobs"),
    "temperature as text": ({"temperature": "0.5"}, "temperature"),
    "no temperature": ({"temperature": None}, "temperature"),
    "infinite temperature": ({"temperature": float("inf")}, "temperature"),
    "a penalty beyond float32": ({"frequency_penalty": 1e300}, "frequency_penalty"),
    "a repetition penalty of nothing": ({"repetition_penalty": 1e-45}, "repetition_penalty"),
    "max_tokens as a number with a point": ({"max_tokens": 4.0}, "max_tokens"),
    "no tokens": ({"max_tokens": 0}, "max_tokens"),
    "more at least than at most": ({"max_tokens": 4, "min_tokens": 5}, "min_tokens"),
    "seed as text": ({"seed": "seven"}, "seed"),
    "ignore_eos as a number": ({"ignore_eos": 1}, "ignore_eos"),
    "a stop token that is none": ({"stop_token_ids": (1.5,)}, "stop_token_ids"),
    "stop tokens in a list": ({"stop_token_ids": [1]}, "stop_token_ids"),
    "a bias that is no number": ({"logit_bias": ((1, float("nan")),)}, "logit_bias"),
    "a bias beyond its range": ({"logit_bias": ((1, 101.0),)}, "logit_bias"),
    "a bias without its token": ({"logit_bias": (5,)}, "logit_bias"),
    "too many biases": ({"logit_bias": tuple((i, 1.0) for i in range(2000))}, "logit_bias"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_sampler_can_make_sense_of_is_refused_by_name(name: str) -> None:
    params, named = REFUSED[name]
    problem = sampling_problem(SamplingParams(**params))
    assert problem is not None and named in problem


def test_ordinary_parameters_are_no_problem() -> None:
    assert sampling_problem(SamplingParams()) is None
    many = SamplingParams(temperature=1, top_p=1, seed=10**30,
                          logprobs=20, stop_token_ids=(2,), logit_bias=((5, -100),))
    assert sampling_problem(many) is None
    assert sampling_problem(SamplingParams(max_tokens=0, prompt_logprobs=0)) is None


@pytest.mark.parametrize("params", [{"logprobs": -1}, {"logit_bias": ((1 << 20, 1.0),)}, {"stop_token_ids": (-1,)}])
def test_a_bad_parameter_fails_its_request_alone(params: dict[str, Any], make_engine: Any, prompts: Any) -> None:
    harness = make_engine()
    harness.add("good", prompts[0], max_tokens=4, ignore_eos=True)
    harness.add("bad", prompts[1], **params)
    failed = harness.out.failed("bad")
    assert failed is not None and failed.kind == "invalid"
    harness.drain()
    assert len(harness.out.tokens("good")) == 4


# ---- steering ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1e-7, 1e-38, 1e-45, 5e-324])
def test_a_vanishing_temperature_is_greedy(temperature: float) -> None:
    assert set(draws(50, temperature=temperature)) == {0}


def test_a_bias_bans_and_forces_tokens() -> None:
    assert set(draws(200, logit_bias=((0, -100.0),))) == {1}, "greedy"
    assert 0 not in draws(temperature=2.0, logit_bias=((0, -100.0),))
    assert set(draws(temperature=2.0, logit_bias=((4, 100.0),))) == {4}


def test_a_bias_shifts_the_odds_by_as_much_as_it_says() -> None:
    wanted = torch.softmax(LOGITS + torch.tensor([0, 0, 0, 1.5, 0]), dim=0).tolist()
    assert frequencies(draws(temperature=1.0, logit_bias=((3, 1.5),))) == pytest.approx(wanted, abs=0.03)


def test_log_probabilities_of_banned_tokens_can_be_written_down() -> None:
    seq = Sequence(Generate("r", [0], SamplingParams(logprobs=5, min_tokens=2, stop_token_ids=(0, 1))), 1)
    (token,), (logprob,) = sample(LOGITS.clone().unsqueeze(0), [seq])
    assert token == 2 and logprob is not None
    assert min(value for _, value in logprob.top) == -9999.0


def test_an_answer_does_not_end_before_min_tokens(make_engine: Any, prompts: Any) -> None:
    harness = make_engine()
    first = harness.run({"free": prompts[0]}, max_tokens=1)["free"][0]
    ended = harness.run({"ended": prompts[0]}, max_tokens=8, stop_token_ids=(first,))["ended"]
    assert ended == [first] and harness.out.finished("ended").reason == "stop"
    kept = harness.run({"kept": prompts[0]}, max_tokens=8, stop_token_ids=(first,), min_tokens=3)["kept"]
    assert len(kept) >= 3 and first not in kept[:3]
    unbounded = harness.run({"more": prompts[0]}, max_tokens=8, stop_token_ids=(first,), ignore_eos=True)["more"]
    assert unbounded == [first], "stop tokens still end what goes past end-of-sequence"


# ---- log probabilities of prompts --------------------------------------------------------------------------------


def reported(oracle: Any, prompt: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return torch.log_softmax(oracle(torch.tensor([prompt])).logits[0], dim=-1)


def test_log_probabilities_of_a_prompt_equal_transformers(make_engine: Any, oracle: Any, prompts: Any) -> None:
    harness = make_engine(token_budget=48)
    long = [token for prompt in prompts for token in prompt]  # read in several chunks, beside others
    asked = {"long": long, **{f"p{i}": prompt for i, prompt in enumerate(prompts)}}
    harness.add("neighbour", prompts[3], max_tokens=24, ignore_eos=True)
    harness.core.step()
    harness.run(asked, max_tokens=0, prompt_logprobs=3)
    for name, prompt in asked.items():
        finished: Finished = harness.out.finished(name)
        assert finished.reason == "length" and finished.usage.output_tokens == 0
        assert not harness.out.tokens(name)
        wanted, got = reported(oracle, prompt), finished.prompt_logprobs
        assert len(got) == len(prompt) and got[0] is None
        for at, entry in enumerate(got[1:], 1):
            assert entry is not None and entry.chosen == pytest.approx(float(wanted[at - 1, prompt[at]]), abs=2e-3)
            assert entry.top[0][1] == pytest.approx(float(wanted[at - 1].max()), abs=2e-3) and len(entry.top) == 3


def test_a_known_prompt_is_scored_as_an_unknown_one(make_engine: Any, prompts: Any) -> None:
    harness = make_engine()
    long = [token for prompt in prompts for token in prompt]
    harness.run({"first": long}, max_tokens=4, ignore_eos=True)
    plain = harness.run({"again": long}, max_tokens=4, ignore_eos=True)["again"]
    assert harness.out.finished("again").usage.cached_tokens > 0
    scored = harness.run({"scored": long}, max_tokens=4, ignore_eos=True, prompt_logprobs=0)["scored"]
    finished = harness.out.finished("scored")
    assert scored == plain, "scoring changes nothing about the answer"
    assert finished.usage.cached_tokens == 0 and None not in finished.prompt_logprobs[1:]


def test_a_preempted_prompt_is_scored_whole(make_engine: Any, oracle: Any, prompts: Any) -> None:
    harness = make_engine(token_budget=32)
    long = [token for prompt in prompts for token in prompt]
    harness.add("r", long, max_tokens=2, ignore_eos=True, prompt_logprobs=0)
    harness.core.step()
    harness.core.scheduler.preempt(harness.core.scheduler.running[0])
    harness.drain()
    wanted = reported(oracle, long)
    for at, entry in enumerate(harness.out.finished("r").prompt_logprobs[1:], 1):
        assert entry.chosen == pytest.approx(float(wanted[at - 1, long[at]]), abs=2e-3)


WAYS_TO_DRAW: list[dict[str, Any]] = [
    {"temperature": 0.0}, {"temperature": 0.8, "top_p": 0.95}, {"temperature": 1.0}, {"temperature": 0.7, "top_k": 40},
    {"temperature": 1.0, "top_k": 50, "top_p": 0.9, "min_p": 0.02}, {"temperature": 1.5, "top_p": 0.999},
    {"temperature": 1e-5}, {"temperature": 1.0, "top_p": 1e-9}, {"temperature": 1.0, "top_k": 5000},
]  # fmt: skip


@pytest.mark.parametrize("params", WAYS_TO_DRAW, ids=str)
@pytest.mark.parametrize("vocab", [7, 10_000])
def test_a_row_draws_the_same_alone_in_a_batch_and_by_the_kernels(
    params: dict[str, Any], vocab: int, cache_dir: Path
) -> None:
    torch.manual_seed(vocab)
    logits = torch.randn(8, vocab) * 4

    def seqs() -> list[Sequence]:
        return [Sequence(Generate(f"r{i}", [0], SamplingParams(**params, seed=i, logprobs=3)), 1) for i in range(8)]

    tokens, logprobs = sample(logits.clone(), seqs())
    rows = [sample(logits[i : i + 1].clone(), [seq]) for i, seq in enumerate(seqs())]
    assert [row[0][0] for row in rows] == tokens
    native, reported = sampler.sample(logits.clone(), seqs(), load_cpu_kernels(cache_dir))
    # Sums in another order move the boundary between two tokens a little.
    assert sum(one != other for one, other in zip(native, tokens, strict=True)) <= 1
    for i, (one, other) in enumerate(zip(logprobs, reported, strict=True)):
        assert one is not None and other is not None
        assert [t for t, _ in one.top] == [t for t, _ in other.top]
        assert native[i] != tokens[i] or one.chosen == pytest.approx(other.chosen, abs=1e-4)


def test_what_must_not_be_drawn_is_not_even_at_the_edges() -> None:
    logits = torch.full((1, 1000), sampler.NEVER)
    logits[0, 700] = 0.0
    for uniform in (0.0, 0.999999999):
        seq = Sequence(Generate("r", [0], SamplingParams(temperature=1.0, seed=1)), 1)
        seq.rng.random = lambda uniform=uniform: uniform  # type: ignore[method-assign,misc]
        assert sample(logits.clone(), [seq])[0] == [700]
