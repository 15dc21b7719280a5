"""What cached tokens would have taken is told apart from what every step takes."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from backend.engine.reading_times import ReadingTimes

STEP, TOKEN, LOOK = 0.02, 0.0003, 2e-7


def step(*items: tuple[int, int], prefill: bool = True) -> tuple[list[Any], float]:
    """A step of (tokens, tokens before them) each, and how long it takes."""
    scheduled = [
        SimpleNamespace(tokens=tokens, prefill=prefill, seq=SimpleNamespace(computed=before + tokens))
        for tokens, before in items
    ]
    looks = sum(tokens * (before + tokens / 2) for tokens, before in items)
    return scheduled, STEP + TOKEN * sum(tokens for tokens, _ in items) + LOOK * looks


def test_the_parts_of_a_step_are_found_in_noise() -> None:
    times, rng = ReadingTimes(), random.Random(0)
    for _ in range(300):
        items = [(rng.randrange(8, 400), rng.randrange(0, 1500)) for _ in range(rng.randrange(1, 4))]
        scheduled, seconds = step(*items)
        times.learn(scheduled, seconds * rng.lognormvariate(0, 0.05), "bf16")
    for cached, prompt in ((192, 200), (592, 600), (1488, 1500)):
        steps = -(-prompt // 512) - 1
        true = steps * STEP + TOKEN * cached + LOOK * cached**2 / 2
        assert times.seconds(cached, prompt, 512) == pytest.approx(true, rel=0.1)


def test_tiny_steps_alone_and_decoding_say_nothing_of_a_token() -> None:
    times = ReadingTimes()
    times.learn(*step((8, 500)), "bf16")
    times.learn(*step((1, 500), (1, 90), prefill=False), "bf16")
    assert times.seconds(400, 500, 512) == 0.0
    times.learn(*step((512, 0)), "bf16")
    assert times.seconds(400, 912, 512) > 0 == times.seconds(0, 912, 512)


def test_one_kind_of_step_prices_its_own_kind_and_other_weights_begin_anew() -> None:
    times = ReadingTimes()
    for _ in range(5):
        scheduled, seconds = step((400, 0))
        times.learn(scheduled, seconds, "bf16")
    assert times.seconds(400, 410, 512) == pytest.approx(seconds, rel=0.01)
    times.learn(*step((300, 0)), "int8")
    assert times.seconds(300, 310, 512) == pytest.approx(step((300, 0))[1], rel=0.01)
