"""Speculation never changes an answer, saves steps where text repeats, and pauses where it does not."""

from __future__ import annotations

from typing import Any

import pytest

from backend.engine.speculate import PAUSE, PromptLookup
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


def test_greedy_output_is_the_oracles_and_takes_fewer_steps(make_engine: Any, prompts: Any, expected: Any) -> None:
    def run(switches: Switches) -> tuple[list[list[int]], int]:
        harness = make_engine(switches)
        out = []
        for i, prompt in enumerate(prompts):
            out.append(harness.run({f"r{i}": prompt}, max_tokens=64, ignore_eos=True)[f"r{i}"])
        return out, harness.core.statistics.steps

    with_guesses, few = run(ON)
    without, many = run(OFF)
    assert with_guesses == without == expected
    assert few < many


@pytest.mark.parametrize("params", [{"temperature": 0.8, "top_p": 0.9}, {"temperature": 0.4, "frequency_penalty": 0.3}])
def test_sampled_output_is_the_same_too(make_engine: Any, prompts: Any, params: Any) -> None:
    prompt = prompts[2] * 3
    results = []
    for switches in (ON, OFF):
        harness = make_engine(switches)
        results.append(harness.run({"r": prompt}, max_tokens=48, seed=11, ignore_eos=True, **params)["r"])
    assert results[0] == results[1]
