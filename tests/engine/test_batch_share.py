"""Batch work takes what real time leaves of a step, has its floor, and is brief while people come."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backend.engine.batch_share import BRIEF, EMBEDDING_EVERY, FEWEST, LATELY, BatchShare
from backend.engine.messages import BATCH
from backend.engine.switches import Switches

PLAIN = 0.008
"""Seconds of a step of four people without batch work."""


def beside(share: BatchShare, per_token: float, steps: int = 4000) -> list[tuple[int, float]]:
    """Steps of four people with as much batch work as may be: its tokens, and seconds."""
    taken = []
    now = 0.0
    rng = np.random.default_rng(1)
    for _ in range(steps):
        tokens = share.beside()
        seconds = (PLAIN + tokens * per_token) * float(rng.lognormal(0, 0.03))
        now += seconds
        share.learn(now, 4, False, tokens, seconds, True)
        taken.append((tokens, seconds))
    return taken[steps // 4 :]


@pytest.mark.parametrize("per_token", [0.00005, 0.0002, 0.0008])
def test_nine_of_ten_gaps_are_hardly_longer_and_what_is_left_is_used(per_token: float) -> None:
    taken = beside(BatchShare(), per_token)
    assert np.percentile([seconds for _, seconds in taken], 95) <= 1.25 * PLAIN
    assert np.mean([tokens for tokens, _ in taken]) > 0.4 * 0.2 * PLAIN / per_token
    assert any(tokens == 0 for tokens, _ in taken), "what a step takes without is learned again"


def test_where_nothing_is_left_batch_work_has_its_floor() -> None:
    share = BatchShare()
    share.floor = 0.05
    taken = beside(share, 0.003)
    spent = sum(tokens * 0.003 for tokens, _ in taken) / sum(seconds for _, seconds in taken)
    assert 0.04 < spent < 0.08
    assert np.percentile([seconds for _, seconds in taken], 95) <= 1.25 * PLAIN


def test_alone_its_steps_are_brief_while_people_come_and_whole_when_they_do_not() -> None:
    share = BatchShare()
    assert share.alone(0.0, 512) == 512, "nobody has come yet"
    share.learn(100.0, 1, False, 0, PLAIN, True)
    for _ in range(40):
        tokens = share.alone(100.1, 512)
        share.learn(100.1, 0, False, tokens, 0.004 + tokens * 0.0002, True)
    assert 0.6 * BRIEF < 0.004 + tokens * 0.0002 <= 1.3 * BRIEF
    assert share.alone(100.0 + LATELY + 0.1, 512) == 512


def test_batch_embeddings_pass_by_seldom_enough_for_p95() -> None:
    share = BatchShare()
    passed = [share.may_embed(True) for _ in range(1000)]
    assert 0.03 < np.mean(passed) <= 1 / EMBEDDING_EVERY
    assert all(share.may_embed(False) for _ in range(3))


def test_late_batch_work_goes_on_as_if_somebody_waited(make_engine: Any, tiny: Any) -> None:
    harness = make_engine(Switches(quantization="fp32", max_batch=2, batch_deadline_s=60), folder=tiny[0])
    for i in range(3):
        harness.add(f"batch{i}", [1 + i, 2, 3], max_tokens=4, path="batch")
    scheduler = harness.core.scheduler
    late = scheduler.waiting[BATCH][2]
    late.arrival -= 61
    harness.core.step()
    assert late in scheduler.running and late.path == "realtime", "before those that came first"
    harness.drain()
    assert all(len(harness.out.tokens(f"batch{i}")) == 4 for i in range(3))


def test_blocks_that_batch_work_holds_are_given_to_people(make_engine: Any, tiny: Any) -> None:
    block_bytes = 2 * 2 * 1 * 16 * 16 * 4
    harness = make_engine(
        Switches(quantization="fp32", max_batch=4), folder=tiny[0], kv_cache_bytes=8 * block_bytes, max_model_len=96
    )
    harness.add("batch", [1 + i % 60 for i in range(70)], max_tokens=20, path="batch")
    harness.core.step()
    harness.add("person", [60 - i % 59 for i in range(68)], max_tokens=3)
    for _ in range(5):
        harness.core.step()
    assert harness.out.finished("person").reason == "length"
    harness.drain()
    assert len(harness.out.tokens("batch")) == 20


def test_people_see_fewer_batch_rows_in_their_steps(make_engine: Any, tiny: Any) -> None:
    harness = make_engine(Switches(quantization="fp32", max_batch=32), folder=tiny[0])
    for i in range(20):
        harness.add(f"batch{i}", [1 + i % 9, 2, 3], max_tokens=80, path="batch")
    for _ in range(3):
        harness.core.step()
    harness.add("person", [9, 9, 9], max_tokens=30)
    harness.core.scheduler.share._beside = 2.0
    scheduled = harness.core.scheduler.schedule(1.0)
    assert [item.seq.request_id for item in scheduled if item.seq.path != BATCH] == ["person"]
    assert sum(item.tokens for item in scheduled if item.seq.path == BATCH) <= max(2, FEWEST)
