"""Speculation never changes an answer, saves steps where text repeats, and pauses where it does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from backend.engine.speculate import PAUSE, PromptLookup
from backend.engine.statistics import StepTimes
from backend.engine.switches import Switches

ON, OFF = Switches(quantization="fp32"), Switches(quantization="fp32", speculation="off")


def test_the_longest_ngram_wins_and_the_latest_place() -> None:
    lookup = PromptLookup()
    assert lookup.propose([1, 2, 3, 9, 9, 1, 2, 3], 3) == [9, 9, 1]
    assert lookup.propose([1, 2, 3, 9, 9, 1, 2, 3], 0) == []
    assert PromptLookup().propose([1, 2, 3, 4], 4) == []


def test_guessing_pauses_after_failures() -> None:
    lookup, tokens = PromptLookup(), [1, 2, 3, 1, 2, 3, 1, 2]
    for _ in range(3):
        assert lookup.propose(tokens, 4)
        lookup.learn(4, 0, len(tokens))
    assert lookup.propose(tokens, 4) == []
    assert lookup.propose(tokens * (PAUSE // 4), 4) != []


def item(tokens: int, draft: int = 0, accepted: int = 0, *, prefill: bool = False) -> Any:
    seq = SimpleNamespace(speculation_seconds=0.0)
    return SimpleNamespace(seq=seq, tokens=tokens, draft=[0] * draft, accepted=accepted, prefill=prefill)


def test_what_guesses_are_worth_is_held_against_steps_without_them() -> None:
    times, first = StepTimes(), item(4, draft=3, accepted=3)
    times.learn([first], 0.010)
    assert first.seq.speculation_seconds == 0, "priced at a step that nobody measured"
    for seconds in (0.200, 0.008, 0.009, 0.008, 0.007):  # the first finds nothing in any cache
        times.learn([item(1)], seconds)
    times.learn([item(64, prefill=True)], 0.5)
    right, wrong = item(4, draft=3, accepted=3), item(4, draft=3)
    times.learn([right], 0.010)  # four tokens, each of which takes a step of 8 ms otherwise
    times.learn([wrong], 0.010)
    assert right.seq.speculation_seconds == pytest.approx(4 * 0.008 - 0.010)
    assert wrong.seq.speculation_seconds == pytest.approx(-0.002)
    for _ in range(3):
        times.learn([item(1), item(1)], 0.012)
    both = [item(3, draft=2, accepted=1), item(1)]
    times.learn(both, 0.014)
    assert both[0].seq.speculation_seconds == pytest.approx(0.006 + 0.012 - 0.014)
    assert both[1].seq.speculation_seconds == 0


def test_greedy_output_is_the_oracles_and_takes_fewer_steps(make_engine: Any, prompts: Any, oracle: Any) -> None:
    harness, prompt, count = make_engine(ON), prompts[2] * 3, 64
    ids = torch.tensor([prompt])
    wanted = oracle.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False)
    assert harness.run({"r": prompt}, max_tokens=count, ignore_eos=True)["r"] == wanted[0, len(prompt) :].tolist()
    assert harness.core.statistics.steps < count, "a step a token is what it takes without guesses"
    usage = harness.out.finished("r").usage
    assert 0 < usage.accepted_tokens == harness.core.statistics.accepted_tokens <= usage.drafted_tokens


@pytest.mark.parametrize("params", [{"temperature": 0.8, "top_p": 0.9}, {"temperature": 0.4, "frequency_penalty": 0.3}])
def test_sampled_output_is_the_same_too(make_engine: Any, prompts: Any, params: Any) -> None:
    prompt = prompts[2] * 3
    results = []
    for switches in (ON, OFF):
        harness = make_engine(switches)
        results.append(harness.run({"r": prompt}, max_tokens=48, seed=11, ignore_eos=True, **params)["r"])
    assert results[0] == results[1]
