"""Random arrivals, aborts and memory pressure keep the block accounting exact and every output what it should be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from backend.engine.cache import blocks
from backend.engine.cache.blocks import BlockCache
from backend.engine.messages import Generate
from backend.engine.prefill_pacing import PrefillPacing
from backend.engine.sequence import Sequence
from backend.engine.switches import Switches
from tests.engine.conftest import VOCAB


def oracle(model: LlamaForCausalLM, prompt: list[int], count: int) -> list[int]:
    ids = torch.tensor([prompt])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False)
    return list(out[0, len(prompt) :].tolist())


REQUEST = st.tuples(
    st.integers(0, 3),  # which shared beginning
    st.integers(1, 40),  # prompt tokens after it
    st.integers(1, 12),  # tokens to generate
    st.booleans(),  # patient
    st.integers(0, 3),  # steps before the next arrival
    st.booleans(),  # aborted on the way
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    requests=st.lists(REQUEST, min_size=1, max_size=10),
    switches=st.builds(
        Switches, in_flight_batching=st.booleans(), max_batch=st.integers(1, 6), chunked_prefill=st.booleans(),
        dual_path=st.booleans(), prefix_cache=st.booleans(),
        speculation=st.sampled_from(["off", "ngram"]), batch_window_ms=st.just(0), quantization=st.just("fp32"),
    ),
    blocks=st.integers(6, 24),
)
def test_any_schedule_gives_the_oracles_tokens(
    make_engine: Any, tiny: Any, requests: list[Any], switches: Switches, blocks: int
) -> None:
    folder, model = tiny
    block_bytes = 2 * 2 * 1 * 16 * 16 * 4
    harness = make_engine(
        switches, folder=folder, kv_cache_bytes=blocks * block_bytes, token_budget=24, max_model_len=96
    )
    wanted: dict[str, tuple[list[int], int]] = {}
    for i, (shared, extra, count, patient, steps, aborted) in enumerate(requests):
        prompt = [(shared * 7 + j) % VOCAB for j in range(shared * 8)] + [(i * 5 + j * 3) % VOCAB for j in range(extra)]
        harness.add(f"r{i}", prompt, max_tokens=count, path="batch" if patient else "realtime")
        for _ in range(steps):
            harness.core.step()
            harness.core.requests.check_integrity()
        if aborted:
            harness.core.abort(f"r{i}")
        else:
            wanted[f"r{i}"] = (prompt, count)
    for _ in range(2000):
        if not harness.core.has_work:
            break
        harness.core.step()
        harness.core.requests.check_integrity()
    assert not harness.core.has_work, "a request hangs"
    harness.core.cache.check([])
    for request_id, (prompt, count) in wanted.items():
        assert harness.out.failed(request_id) is None
        assert harness.out.tokens(request_id) == oracle(model, prompt, count)


def test_urgent_requests_do_not_wait_for_patient_ones(make_engine: Any, tiny: Any) -> None:
    harness = make_engine(Switches(quantization="fp32", max_batch=2), folder=tiny[0])
    for i in range(6):
        harness.add(f"patient{i}", [1 + i, 2, 3], max_tokens=60, path="batch")
    for _ in range(3):
        harness.core.step()
    harness.add("urgent", [9, 9, 9], max_tokens=4)
    for _ in range(6):
        harness.core.step()
    assert harness.out.finished("urgent").reason == "length"
    harness.drain()
    assert all(len(harness.out.tokens(f"patient{i}")) == 60 for i in range(6))


def test_a_lone_request_never_waits_for_company(make_engine: Any, tiny: Any) -> None:
    scheduler = make_engine(Switches(quantization="fp32", batch_window_ms=50), folder=tiny[0]).core.scheduler

    def arrive(name: str, now: float) -> float:
        scheduler.add(Sequence(Generate(name, [1, 2]), 4), now)
        hold = scheduler.hold(now)
        for seq in list(scheduler.waiting["realtime"]):
            scheduler.finish(seq)
        return float(hold)

    assert arrive("a", 100.0) == 0
    assert arrive("b", 103.0) == 0, "arrivals three seconds apart are no company"
    for i in range(12):
        arrive(f"c{i}", 103.1 + i * 0.005)
    assert 0 < arrive("d", 103.17) <= 0.05, "arrivals five milliseconds apart are"


def test_equal_prefixes_of_different_tenants_are_not_shared() -> None:
    cache = BlockCache(8, "model")
    first = Sequence(Generate("a", list(range(33)), salt="one"), 4)
    cache.grow(first, 33)
    first.computed = 33
    cache.commit(first)
    assert len(cache.match(Sequence(Generate("b", list(range(33)), salt="one"), 4))[0]) == 2
    assert cache.match(Sequence(Generate("c", list(range(33)), salt="two"), 4))[0] == []


def test_a_prompt_that_waits_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[tuple[int, ...]] = []
    chain = blocks.chain
    monkeypatch.setattr(blocks, "chain", lambda parent, tokens: hashed.append(tokens) or chain(parent, tokens))
    cache, first = BlockCache(8, "model"), Sequence(Generate("a", list(range(33))), 4)
    cache.grow(first, 33)
    first.computed = 33
    cache.commit(first)
    waits = Sequence(Generate("b", list(range(33))), 4)
    hashed.clear()
    for _ in range(5):
        assert cache.can_admit(waits, 33)
    assert cache.admit(waits) == 32
    assert len(hashed) == 2
    other_weights = BlockCache(8, "another model")
    assert other_weights.match(waits)[0] == [] and waits.digests_of == "another model"


def test_the_least_recently_used_block_is_evicted_first() -> None:
    cache = BlockCache(4, "model")

    def run(name: str, start: int) -> Sequence:
        seq = Sequence(Generate(name, list(range(start, start + 17))), 4)
        assert cache.can_admit(seq, 17)
        cache.admit(seq)
        cache.grow(seq, 17)
        seq.computed = 17
        cache.commit(seq)
        cache.release(seq)
        return seq

    run("old", 0)
    run("new", 100)
    run("third", 200)  # two free blocks are left for it; a fourth must evict
    run("fourth", 300)
    assert cache.match(Sequence(Generate("x", list(range(17))), 4))[0] == []
    assert len(cache.match(Sequence(Generate("y", list(range(300, 317))), 4))[0]) == 1
    cache.check([])


@pytest.mark.parametrize("per_token", [0.0002, 0.001, 0.003])
@pytest.mark.parametrize(("plain", "stall", "allowed"), [(0.008, 1.0, 0.05), (0.06, 1.0, 0.12), (0.008, 0.25, 0.0185)])
def test_a_long_prompts_pace_settles_within_the_time_allowed(
    plain: float, stall: float, allowed: float, per_token: float
) -> None:
    """Twice a plain step, or what nobody notices, or a share of it; prompts read whole and late steps are got over."""
    pacing = PrefillPacing()
    pacing.stall = stall
    for _ in range(20):
        pacing.learn(4, 0, plain)
    pacing.learn(4, 4000, 4.0)  # as with chunked prefill off
    taken = []
    for step in range(200):
        tokens = pacing.chunk_size()
        seconds = plain + tokens * per_token
        pacing.learn(4, tokens, 12 * plain if step == 50 else seconds)
        taken.append((tokens, seconds))
    settled = taken[100:]
    assert max(seconds for _, seconds in settled) <= allowed
    assert sum(tokens for tokens, _ in settled) / len(settled) > 0.3 * (allowed - plain) / per_token
    assert any(tokens == 0 for tokens, _ in settled)  # what a plain step takes is learned again
