"""One turn of the loop: whatever fails in it fails alone, nothing hangs, and nobody is deaf while an embedding runs."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.engine.messages import (
    Abort,
    Embed,
    Embedded,
    Failed,
    Finished,
    Generate,
    Ping,
    SamplingParams,
    SetSwitches,
    Stats,
    StepOutput,
    SwitchesApplied,
)
from backend.engine.model.decoder import Decoder
from backend.engine.switches import Switches
from backend.models.checkpoint import resolve
from backend.packaged import EMBEDDING_MODEL
from tests.conftest import until
from tests.engine.conftest import Harness

FP32 = Switches(quantization="fp32")
LONG = [[100 + i] * 250 for i in range(16)]
"""Texts to embed that take several passes."""


@pytest.fixture(scope="module")
def embedding_model(cache_dir: Any) -> str:
    return str(resolve(EMBEDDING_MODEL, cache_dir))


@pytest.fixture(scope="module")
def serving(tiny: Any, embedding_model: str, cache_dir: Path) -> Harness:
    return Harness(tiny[0], cache_dir, FP32, embedding_model=embedding_model)


@pytest.fixture
def harness(serving: Harness) -> Iterator[Harness]:
    """One engine for all that is done to it here; after each it must serve as before."""
    serving.out.messages.clear()
    yield serving
    serving.core.handle(SetSwitches(FP32))
    serving.drain()
    serving.out.messages.clear()
    assert len(serving.run({"at last": [1, 2, 3]}, max_tokens=2)["at last"]) == 2, "it serves no more"


def embedded(harness: Any) -> list[str]:
    return [message.request_id for message in harness.out.of(Embedded)]


# ---- an embedding and a step in one turn ---------------------------------------------------------------------------


def test_a_step_that_fails_beside_an_embedding_fails_alone(harness: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from backend.engine import runner

    harness.core.handle(Embed("e", LONG))
    harness.add("broken", [1, 2, 3], max_tokens=20)
    harness.core.step()
    with monkeypatch.context() as patch:
        patch.setattr(runner, "sample", lambda *_: 1 / 0)  # behind the model: the sequence has advanced by then
        harness.core.step()
    failed = harness.out.failed("broken")
    assert "ZeroDivisionError" in failed.error
    assert failed.usage.prefill_seconds > 0 and failed.usage.decode_seconds > 0, "what failed had been computed for"
    harness.drain()
    assert embedded(harness) == ["e"] and harness.out.failed("e") is None


def test_an_embedding_that_fails_leaves_decoding_alone(harness: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    harness.add("good", [1, 2, 3], max_tokens=6)
    harness.core.handle(Embed("broken", LONG))
    harness.core.handle(Embed("next", LONG[:1]))
    with monkeypatch.context() as patch:
        patch.setattr(harness.core.embedding.encoder, "forward", lambda *_: 1 / 0)
        harness.core.step()
    harness.drain()
    assert "ZeroDivisionError" in harness.out.failed("broken").error
    assert embedded(harness) == ["next"]
    assert len(harness.out.tokens("good")) == 6


def test_requests_and_pings_are_taken_while_an_embedding_is_worked_on(harness: Any) -> None:
    harness.core.handle(Embed("e", LONG))
    harness.core.step()
    assert not embedded(harness)
    harness.core.handle(Ping(7))
    assert harness.out.of(Stats)[-1].nonce == 7
    harness.add("r", [1, 2, 3], max_tokens=1)
    harness.core.step()
    assert harness.out.finished("r") and not embedded(harness)
    usage = harness.out.finished("r").usage
    assert usage.arrival <= usage.scheduled <= usage.first_token <= usage.finished


def test_embeddings_are_served_in_order_and_people_first(harness: Any) -> None:
    harness.core.handle(Embed("patient", LONG, path="batch"))
    harness.core.step()
    for name in ("first", "second", "third"):
        harness.core.handle(Embed(name, LONG[:1]))
    harness.core.handle(Embed("patient too", LONG[:1], path="batch"))
    harness.drain()
    assert embedded(harness) == ["first", "second", "third", "patient", "patient too"]


def test_embeddings_are_one_queue_where_nobody_goes_first(harness: Any) -> None:
    harness.core.handle(SetSwitches(FP32.updated({"dual_path": False})))
    harness.core.handle(Embed("patient", LONG, path="batch"))
    harness.core.handle(Embed("person", LONG[:1]))
    harness.drain()
    assert embedded(harness) == ["patient", "person"]


def test_an_embedding_whose_caller_left_is_worked_on_no_more(harness: Any) -> None:
    harness.core.handle(Embed("e", LONG))
    harness.core.handle(Embed("waits", LONG))
    harness.core.step()
    harness.core.handle(Abort("waits"))
    harness.core.handle(Abort("e"))
    assert [m.kind for m in harness.out.of(Failed)] == ["aborted", "aborted"]
    assert harness.out.failed("e").embedding_seconds > 0 == harness.out.failed("waits").embedding_seconds
    assert not harness.core.has_work
    assert not embedded(harness)


def test_no_texts_are_no_vectors(harness: Any) -> None:
    harness.core.handle(Embed("e", []))
    harness.drain()
    assert harness.out.of(Embedded)[0].vectors == b""


# ---- what comes in -------------------------------------------------------------------------------------------------

SAMPLING = SamplingParams(max_tokens=2)
ODD: dict[str, Any] = {
    "float ids": Generate("odd", [1.5] * 40, SAMPLING),  # type: ignore[list-item]
    "whole float ids": Generate("odd", [2.0] * 40, SAMPLING),  # type: ignore[list-item]
    "text ids": Generate("odd", ["1"] * 40, SAMPLING),  # type: ignore[list-item]
    "truth values": Generate("odd", [True] * 40, SAMPLING),
    "huge ids": Generate("odd", [10**40] * 40, SAMPLING),
    "no list": Generate("odd", "word", SAMPLING),  # type: ignore[arg-type]
    "nothing": Generate("odd", None, SAMPLING),  # type: ignore[arg-type]
    "unknown path": Generate("odd", [1, 2], SAMPLING, path="express"),
    "no sampling": Generate("odd", [1, 2], None),  # type: ignore[arg-type]
    "odd salt": Generate("odd", [1, 2], SAMPLING, salt="\ud800"),
    "no salt": Generate("odd", [1, 2], SAMPLING, salt=None),  # type: ignore[arg-type]
    "segment outside": Generate("odd", [1, 2], SAMPLING, segments=((0, 3),)),
    "segments of text": Generate("odd", [1, 2], SAMPLING, segments="ab"),  # type: ignore[arg-type]
    "no time": Generate("odd", [1, 2], SAMPLING, arrival=float("nan")),
    "texts of floats": Embed("odd", [[1.0, 2.0]]),  # type: ignore[list-item]
    "texts of text": Embed("odd", ["word"]),  # type: ignore[list-item]
    "no texts": Embed("odd", None),  # type: ignore[arg-type]
    "an empty text": Embed("odd", [[1], []]),
    "texts beyond the vocabulary": Embed("odd", [[10**9]]),
    "texts on an unknown path": Embed("odd", [[1]], path="express"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_request_fails_alone(harness: Any, name: str) -> None:
    harness.add("good", [1, 2, 3], max_tokens=4)
    harness.core.handle(ODD[name])
    failed = harness.out.failed("odd")
    assert failed is not None and failed.kind == "invalid" and failed.error
    harness.core.handle(Generate("odd", [1, 2], SAMPLING))  # its name is free: nothing of it is left
    harness.drain()
    assert len(harness.out.tokens("good")) == 4 and len(harness.out.tokens("odd")) == 2


@pytest.mark.parametrize("message", [
    Abort([]), Abort("unknown"), object(), None, Ping("x"), Generate([], [1], SAMPLING),  # type: ignore[arg-type]
])  # fmt: skip
def test_an_odd_message_is_survived(harness: Any, message: Any) -> None:
    harness.add("good", [1, 2, 3], max_tokens=4)
    harness.core.handle(message)
    harness.drain()
    assert len(harness.out.tokens("good")) == 4


@pytest.mark.parametrize("switches", [
    None, Switches(max_batch="many"), Switches(kv_cache="int3"), Switches(quantization="fp1"),  # type: ignore[arg-type]
])  # fmt: skip
def test_odd_switches_are_answered_with_what_is_in_force(harness: Any, switches: Any) -> None:
    harness.core.handle(SetSwitches(switches))
    answer = harness.out.of(SwitchesApplied)[-1]
    assert answer.error and answer.switches == FP32 == harness.core.serving.switches and answer.loading is None


# ---- what fails within a turn --------------------------------------------------------------------------------------


def test_a_request_that_cannot_be_scheduled_fails_alone(harness: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    harness.add("good", [1, 2, 3], max_tokens=6)
    harness.core.step()
    grow = harness.core.cache.grow

    def refuse(seq: Any, tokens: int) -> None:
        if seq.request_id == "broken":
            raise RuntimeError("no block for you")
        grow(seq, tokens)

    with monkeypatch.context() as patch:
        patch.setattr(harness.core.cache, "grow", refuse)
        harness.add("broken", [4, 5, 6], max_tokens=6)
        harness.core.step()
    assert "no block for you" in harness.out.failed("broken").error
    harness.drain()
    assert len(harness.out.tokens("good")) == 6


def test_a_lost_block_ends_what_goes_on_and_nothing_after_it(harness: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    harness.add("unlucky", [1, 2, 3], max_tokens=20)
    harness.add("neighbour", [1, 2, 3], max_tokens=20)
    harness.core.step()
    harness.core.cache._free.pop()
    with monkeypatch.context() as patch:
        patch.setattr(harness.core.runner, "run", lambda *_: 1 / 0)
        harness.core.step()
    assert {m.request_id for m in harness.out.of(Failed)} == {"unlucky", "neighbour"}


def test_what_can_never_be_admitted_does_not_keep_others_waiting(
    harness: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    can_admit = harness.core.cache.can_admit
    with monkeypatch.context() as patch:
        patch.setattr(harness.core.cache, "can_admit", lambda s, n: s.request_id != "large" and can_admit(s, n))
        harness.add("large", [1, 2, 3], max_tokens=6)
        harness.add("next", [1, 2, 3], max_tokens=6)
        for _ in range(20):
            harness.core.step()
    assert "does not fit" in harness.out.failed("large").error
    assert len(harness.out.tokens("next")) == 6


# ---- weights and pages that change ---------------------------------------------------------------------------------


def test_a_request_that_no_longer_fits_fails_at_the_change(make_engine: Any, prompts: Any) -> None:
    """Pages of 8 bits hold more than twice the tokens that pages of float32 do."""
    eight_bit = FP32.updated({"kv_cache": "int8", "max_batch": 2})
    harness = make_engine(eight_bit, kv_cache_bytes=12 << 20)
    core = harness.core
    if not core.serving.attention.name.endswith("8-bit pages"):
        pytest.skip("this machine's attention has no pages of 8 bits")
    most = core.serving.max_model_len
    harness.add("long", (prompts[2] * 100)[: most // 2], max_tokens=most // 2 - 8, ignore_eos=True)
    harness.add("short", prompts[0], max_tokens=24, ignore_eos=True)
    harness.add("long, waiting", (prompts[2] * 100)[: most - 20], max_tokens=10)
    harness.add("short, waiting", prompts[1], max_tokens=4, ignore_eos=True)
    for _ in range(3):
        core.step()
    core.handle(SetSwitches(eight_bit.updated({"kv_cache": "auto"})))
    assert core.serving.max_model_len < most
    for name in ("long", "long, waiting"):
        assert f"the context is {core.serving.max_model_len} tokens now" in harness.out.failed(name).error
    harness.drain()
    assert len(harness.out.tokens("short")) == 24 and len(harness.out.tokens("short, waiting")) == 4


def test_pages_that_cannot_be_had_leave_the_former_in_force(harness: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    core, before = harness.core, harness.core.serving.max_model_len
    harness.add("good", [1, 2, 3], max_tokens=8)
    core.step()
    install, tried = core.serving._install, []

    def fail_once(decoder: Decoder, switches: Switches) -> None:
        tried.append(decoder)
        if len(tried) == 1:
            raise MemoryError("no memory")
        install(decoder, switches)

    with monkeypatch.context() as patch:
        patch.setattr(core.serving, "_install", fail_once)
        core.handle(SetSwitches(FP32.updated({"kv_cache": "int8"})))
    answer = harness.out.of(SwitchesApplied)[-1]
    assert "no memory" in answer.error and answer.switches == FP32
    assert core.serving.max_model_len == before and not core.serving.attention.name.endswith("8-bit pages")
    harness.drain()
    assert len(harness.out.tokens("good")) == 8


def test_the_former_pages_are_given_up_before_others_are_taken(
    harness: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = harness.core
    harness.run({"r": [1, 2, 3]}, max_tokens=2)
    former, install, gone = weakref.ref(core.serving.attention), core.serving._install, []

    def look(decoder: Decoder, switches: Switches) -> None:
        gone.append(former() is None)
        install(decoder, switches)

    with monkeypatch.context() as patch:
        patch.setattr(core.serving, "_install", look)
        core.handle(SetSwitches(FP32.updated({"kv_cache": "int8"})))
    assert gone == [True]


def test_of_two_loads_that_end_at_once_the_wanted_one_comes_in(
    make_engine: Any, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = make_engine(FP32, folder=tiny[0])
    core, load = harness.core, harness.core.serving._load
    ready = {"bf16": threading.Event(), "int8": threading.Event()}

    def slow(variant: str, progress: Any = None) -> Decoder:
        assert ready[variant].wait(60)
        decoder = load("fp32")
        decoder.variant = variant
        return decoder

    before = set(threading.enumerate())
    monkeypatch.setattr(core.serving, "_load", slow)
    core.handle(SetSwitches(FP32.updated({"quantization": "bf16"})))
    core.handle(SetSwitches(FP32.updated({"quantization": "int8"})))
    loads = [thread for thread in threading.enumerate() if thread not in before]
    ready["int8"].set()
    until(lambda: core.has_work, "what is wanted is loaded")
    ready["bf16"].set()  # no longer wanted, and last
    for thread in loads:
        thread.join(60)
    core.step()
    assert core.serving.decoder.variant == "int8" and not core.serving.loading
    assert harness.out.of(SwitchesApplied)[-1].error is None


def test_how_far_a_load_is_is_said_while_nothing_else_is_to_do(
    make_engine: Any, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = make_engine(FP32, folder=tiny[0])
    core, load = harness.core, harness.core.serving._load
    asked, half, told = threading.Event(), threading.Event(), threading.Event()

    def slow(variant: str, progress: Any = None) -> Decoder:
        assert asked.wait(60)
        progress(0.5)
        half.set()
        assert told.wait(60)
        return load("fp32")

    monkeypatch.setattr(core.serving, "_load", slow)
    core.handle(SetSwitches(FP32.updated({"quantization": "int8"})))
    asked.set()
    assert half.wait(60) and core.has_work
    core.step()
    last = harness.out.of(SwitchesApplied)[-1]
    assert last.loading == "int8" and last.progress == 0.5
    assert not core.has_work, "it is said once"
    told.set()
    until(lambda: core.has_work, "what is wanted is loaded")
    core.step()
    assert harness.out.of(SwitchesApplied)[-1].loading is None


# ---- who is served, and what it cost -------------------------------------------------------------------------------


def test_reading_and_answering_are_timed_apart(make_engine: Any, tiny: Any) -> None:
    harness = make_engine(FP32.updated({"speculation": "off"}), folder=tiny[0])
    harness.add("one token", [1] * 40, max_tokens=1)
    harness.drain()
    usage = harness.out.finished("one token").usage
    assert usage.prefill_seconds > 0 and usage.decode_seconds == 0
    harness.run({"a": [2] * 40, "b": [3], "again": [1] * 40}, max_tokens=20)
    usages = [m.usage for m in harness.out.of(Finished)]
    assert all(u.prefill_seconds > 0 for u in usages) and all(u.decode_seconds > 0 for u in usages[1:])
    assert sum(u.compute_seconds for u in usages) == pytest.approx(harness.core.statistics.busy_seconds, rel=1e-6)
    for u in usages:
        assert u.queue_seconds == u.scheduled - u.arrival
    harness.add("never", [1], max_tokens=1)
    harness.core.handle(Abort("never"))
    usage = harness.out.finished("never").usage
    assert usage.compute_seconds == 0 and usage.queue_seconds == usage.finished - usage.arrival


def test_people_get_all_the_places_they_need_in_one_step(make_engine: Any, tiny: Any) -> None:
    harness = make_engine(FP32.updated({"max_batch": 4}), folder=tiny[0])
    for i in range(4):
        harness.add(f"patient{i}", [1 + i, 2], max_tokens=40, path="batch")
    for _ in range(3):
        harness.core.step()
    for i in range(3):
        harness.add(f"person{i}", [9, 9, i], max_tokens=4)
    harness.core.step()
    first = {request_id for request_id, _, _ in harness.out.of(StepOutput)[-1].tokens}
    assert {"person0", "person1", "person2"} <= first
    harness.drain()
    assert all(len(harness.out.tokens(f"patient{i}")) == 40 for i in range(4))


def test_a_prompt_nothing_can_be_read_of_takes_no_place(make_engine: Any, tiny: Any) -> None:
    """Long prompts are read one after the other beside those that decode; short ones behind them go on."""
    switches = FP32.updated({"speculation": "off", "prefix_cache": False})
    harness = make_engine(switches, folder=tiny[0], token_budget=24)
    harness.add("decodes", [1, 2], max_tokens=150)
    for _ in range(20):
        harness.core.step()
    for i in range(4):
        harness.add(f"long{i}", [1 + i] * 100, max_tokens=2)
    harness.add("short", [5, 6, 7], max_tokens=2)
    harness.core.step()
    harness.core.step()
    reading = [seq.request_id for seq in harness.core.scheduler.running if seq.length > 24 and seq.remaining > 1]
    assert len(reading) <= 1, "one holds places, the others are in the queue"
    assert harness.out.finished("short").reason == "length"
    harness.drain()
    assert all(len(harness.out.tokens(f"long{i}")) == 2 for i in range(4))
