"""A switch that does nothing is not made out to do something, however often one looks; one that does is found.

The clock is simulated, and the traffic is as rough as a real machine's: blocks that follow each other are alike,
lengths have long tails, some blocks are far off.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from typing import Any

import numpy as np
import pytest

from backend.engine.switches import Switches, describe
from backend.switchboard.worth import (
    LEAST_PAIRS,
    Block,
    Measure,
    Served,
    Verdict,
    decide,
    differences,
    effect,
    interval,
    more_pairs,
    reach,
)
from backend.switchboard.worth_caches import arms_of
from backend.switchboard.worth_trial import SAME_PAIRS, Trial

BLOCKS = 60
"""In ten minutes, at ten seconds each."""


class Traffic:
    """Blocks of requests, one after the other, under a machine whose speed wanders."""

    def __init__(self, seed: int, effect: float) -> None:
        self.random, self.effect = np.random.default_rng(seed), effect
        self.drift = 0.0

    def block(self, on: bool) -> Block:
        draw = self.random
        self.drift = 0.8 * self.drift + draw.normal(0, 0.08)  # of the machine, by block
        spike = 0.5 if draw.random() < 0.03 else 0.0
        factor = math.exp(self.drift + draw.normal(0, 0.05) + spike) * (1 + self.effect if on else 1)
        count = 3 + draw.poisson(12)
        prompts = np.minimum(draw.lognormal(5, 1, count), 4000).astype(int) + 5
        outputs = np.minimum(draw.lognormal(3.5, 1, count), 500).astype(int) + 1
        noise = draw.lognormal(0, 0.3, count) * factor
        sources = draw.choice(["api", "console"], count)
        return Block.of(
            Served(str(source), False, int(prompt), int(output), one * 0.0004 * prompt, one * 0.01 * output,
                   one * 0.0004 * prompt + 0.01, one * 0.01)
            for source, prompt, output, one in zip(sources, prompts, outputs, noise, strict=True)
        )  # fmt: skip


def outcome(seed: int, effect: float) -> Verdict:
    """Of a trial that is looked at after every pair and stops at the first verdict."""
    trial, traffic = Trial(seed), Traffic(seed, effect)
    while trial.done < BLOCKS:
        if trial.add(traffic.block(trial.arm)) and len(trial.pairs) >= LEAST_PAIRS:
            noise = statistics.stdev(differences(trial.same, trial.measure))
            verdict = decide(differences(trial.pairs, trial.measure), trial.measure, noise)
            if verdict is not Verdict.NOT_RESOLVED:
                return verdict
    return Verdict.NOT_RESOLVED


def test_a_switch_that_does_nothing_is_not_said_to_do_something_in_95_of_100_runs() -> None:
    found = Counter(outcome(seed, 0.0) for seed in range(100))
    assert found[Verdict.NOT_RESOLVED] + found[Verdict.NO_DIFFERENCE] >= 95, found


def test_a_fifth_less_cost_is_found_worth_it_within_ten_minutes_in_90_of_100_runs() -> None:
    found = Counter(outcome(seed, -0.2) for seed in range(100))
    assert found[Verdict.WORTH_IT] >= 90, found


def test_what_makes_requests_dearer_costs_you() -> None:
    found = Counter(outcome(seed, 0.4) for seed in range(20))
    assert found[Verdict.COSTS_YOU] >= 18, found


def test_an_interval_holds_at_every_look_and_not_only_at_the_last() -> None:
    draw = np.random.default_rng(7)
    missed = fixed = 0
    for _ in range(200):
        values = draw.normal(0, 1, 40).tolist()
        looks = [interval(values[:n]) for n in range(LEAST_PAIRS, 41, 2)]
        missed += any(low > 0 or high < 0 for _, low, high in looks)
        fixed += any(abs(mean) > 0.55 * (high - mean) for mean, _, high in looks)  # about as wide as Student's
    assert missed <= 10 and fixed > 20, (missed, fixed)


def test_an_interval_shrinks_with_pairs_and_is_never_tighter_than_the_noise() -> None:
    assert math.isinf(reach(3)) and reach(4) > reach(8) > reach(40) > 2 / math.sqrt(40)
    _, low, high = interval([0.1, 0.1, 0.1, 0.1, 0.1], noise=0.2)
    assert high - low == pytest.approx(2 * reach(5) * 0.2)
    assert interval([0.1] * 3)[1] == -math.inf, "three agree by chance"


def served(prompt: int, rate: float, **more: Any) -> Served:
    known = {
        "source": "api", "again": False, "prompt_tokens": prompt, "output_tokens": 8, "reading": prompt * rate,
        "writing": 0.08, "ttft": prompt * rate, "per_token": 0.01,
    }  # fmt: skip
    return Served(**{**known, **more})


def test_a_block_that_happened_to_get_long_prompts_does_not_look_dear() -> None:
    short, long = served(10, 0.002), served(1000, 0.0005)
    pairs = [(Block.of([short] * 9 + [long]), Block.of([short] + [long] * 9))] * 2
    assert differences(pairs, Measure.COST) == pytest.approx([0, 0], abs=1e-9)
    assert differences(pairs, Measure.TTFT) == pytest.approx([0, 0], abs=1e-9)


def test_answers_given_again_are_a_class_of_their_own_unless_the_switch_decides_that() -> None:
    fresh, again = served(100, 0.001), served(100, 0, again=True, writing=0.0, ttft=0.001, per_token=None)
    apart = [(Block.of([fresh, fresh, again]), Block.of([fresh, again, again]))]
    assert differences(apart, Measure.COST) == pytest.approx([0], abs=1e-9)
    with_it, without = (Block.of(one, split_again=False) for one in ([again, again], [fresh, fresh]))
    found = effect([(with_it, without)] * 5, Measure.COST)
    assert found is not None and found.change == pytest.approx(-1) and found.high == pytest.approx(-1)
    assert found.without == pytest.approx(0.18 / 108), "machine seconds a token, read or written"


def test_a_tenth_faster_is_a_tenth_in_every_measure() -> None:
    slow, quick = served(100, 0.001), served(100, 0.0009, writing=0.072, per_token=0.009)
    pairs = [(Block.of([quick] * 3), Block.of([slow] * 3))] * 5
    for measure, change in ((Measure.COST, -0.1), (Measure.TTFT, -0.1), (Measure.SPEED, 1 / 0.9 - 1)):
        found = effect(pairs, measure)
        assert found is not None and found.change == pytest.approx(change)
    assert decide(differences(pairs, Measure.SPEED), Measure.SPEED) is Verdict.WORTH_IT


def test_what_is_within_the_margin_is_no_difference_and_what_is_not_known_says_how_much_more_it_takes() -> None:
    assert decide([0.01, 0.012, 0.009, 0.011, 0.01], Measure.COST) is Verdict.NO_DIFFERENCE
    rough = [0.3, -0.1, 0.4, 0.0, 0.35]
    assert decide(rough, Measure.COST) is Verdict.NOT_RESOLVED
    more = more_pairs(rough)
    assert more is not None and reach(5 + more) * statistics.stdev(rough) < statistics.fmean(rough)
    assert more_pairs([0.1]) is None


def test_blocks_come_in_a_drawn_order_and_a_disturbed_one_takes_its_pair_along() -> None:
    block = Block.of([served(10, 0.001)] * 3)
    trial, arms = Trial(3), []
    while len(trial.pairs) < 40:
        arms.append(trial.arm)
        trial.add(block)
    learning, rest = arms[: 2 * SAME_PAIRS], arms[2 * SAME_PAIRS :]
    pairs = list(zip(rest[::2], rest[1::2], strict=True))
    assert all(learning) and all(first != second for first, second in pairs)
    assert 10 < sum(first for first, _ in pairs) < 30
    trial.add(block)
    done = trial.done
    trial.drop()
    assert trial.done == done - 1 and len(trial.pairs) == 40


def test_the_same_seed_gives_the_same_order() -> None:
    def order(seed: int) -> list[bool]:
        trial, found = Trial(seed), []
        for _ in range(60):
            found.append(trial.arm)
            trial.add(Block.of([]))
        return found

    assert order(5) == order(5) != order(6)


def test_only_what_goes_on_and_off_between_two_steps_is_measured_live_and_caches_say_what_they_keep() -> None:
    live = {about["name"]: arms_of(about["name"], Switches()) for about in describe()}
    assert {name for name, arms in live.items() if arms is None} == {
        "max_batch", "batch_window_ms", "prompt_stall_percent", "chunk_recompute_percent", "quantization", "kv_cache",
        "semantic_threshold_percent", "sparse_keep_percent", "batch_floor_percent", "batch_deadline_s",
    }  # fmt: skip
    for name in (about["name"] for about in describe() if about["group"] == "Caches"):
        assert live[name] is None or live[name].note, name  # type: ignore[union-attr]
    speculation = arms_of("speculation", Switches(speculation="off"))
    assert speculation is not None and (speculation.with_it, speculation.without) == ("ngram", "off")
    assert arms_of("no such switch", Switches()) is None
