"""The edge between the two processes holds whatever either does: raise, fill the pipe, hang, die, in every phase.

The engine's process is a fake (`fake_engine.py`); pipe, loop, client and supervision are the real ones.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from backend.engine import child
from backend.engine.client import LocalEngine
from backend.engine.config import EngineConfig
from backend.engine.messages import Failed, Finished, Generate, InfoChanged, SamplingParams, SwitchesApplied
from backend.engine.protocol import Event, Phase, Token
from backend.engine.switches import Switches
from backend.errors import ModelFailedError, TenfoldError, UnavailableError
from tests.conftest import until
from tests.engine.fake_engine import COUNT, CRASH, FREEZE, HELD, OUT_OF_MEMORY, SLEEP, SPIN

FAKE = (sys.executable, str(Path(__file__).with_name("fake_engine.py")))
ENDLESS = 1 << 30


class Stream:
    """One request's events; `fails_at` is the number of the event at which this consumer raises."""

    def __init__(self, fails_at: int | None = None, then: Callable[[int], None] | None = None) -> None:
        self.events: list[Event] = []
        self.fails_at, self.then = fails_at, then
        self.ended = threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Failed):
            self.ended.set()
        if self.fails_at == len(self.events):
            raise RuntimeError("Invalid prefix encountered")
        if not isinstance(event, Token):
            self.ended.set()
        elif self.then is not None:
            self.then(len(self.events))

    @property
    def tokens(self) -> list[int]:
        return [event.token_id for event in self.events if isinstance(event, Token)]

    @property
    def last(self) -> Event:
        assert self.ended.wait(60), "the request hangs"
        return self.events[-1]


Make = Callable[..., LocalEngine]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    engines: list[LocalEngine] = []

    def start(model: str = "fake", switches: Switches | None = None, ready: bool = True, **kwargs: Any) -> LocalEngine:
        config = EngineConfig(model=model, cache_dir=tmp_path, switches=switches or Switches(), threads=1)
        engine = LocalEngine(config, command=FAKE, **kwargs)
        engines.append(engine)
        engine.start()
        if ready:
            assert engine.wait_ready(60)
        return engine

    yield start
    for engine in engines:
        engine.stop(1)


def ask(
    engine: LocalEngine, name: str, *prompt: int, tokens: int = 8, stream: Stream | None = None, **more: Any
) -> Stream:
    stream = stream or Stream()
    engine.generate(Generate(name, list(prompt), SamplingParams(max_tokens=tokens, **more)), stream)
    return stream


def reason(event: Event) -> str:
    assert isinstance(event, Finished), event
    return event.reason


def serves(engine: LocalEngine, name: str = "after") -> bool:
    return engine.wait_ready(60) and reason(ask(engine, name, COUNT).last) == "length"


# ---- consumers -------------------------------------------------------------------------------------------------------


def test_a_consumer_that_raises_fails_alone(make: Make) -> None:
    engine = make()
    good = [ask(engine, "before", COUNT, tokens=200)]
    bad = ask(engine, "bad", COUNT, tokens=ENDLESS, stream=Stream(fails_at=3))
    good.append(ask(engine, "behind", COUNT, tokens=200))
    for stream in good:
        assert reason(stream.last) == "length"
        assert stream.tokens == list(range(200)), "a neighbour lost tokens"
    assert isinstance(bad.last, Failed) and "Invalid prefix" in bad.last.error
    assert bad.tokens == [0, 1, 2]
    until(lambda: engine.ping(30).running == 0, "the engine drops the request that nobody takes in")


def test_a_consumer_that_raises_at_the_end_has_ended(make: Make) -> None:
    engine = make()
    stream = ask(engine, "bad", COUNT, tokens=4, stream=Stream(fails_at=5))
    assert isinstance(stream.last, Failed)
    assert isinstance(stream.events[-2], Finished)
    assert serves(engine)


def test_whoever_follows_the_engine_may_raise(make: Make) -> None:
    engine = make(on_stats=lambda _: 1 / 0, on_applied=lambda _: 1 / 0)
    assert engine.ping(30).running == 0
    assert serves(engine)


# ---- pipes -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    original = socket.socketpair

    def pair() -> tuple[socket.socket, socket.socket]:
        both = original()
        for end in both:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the system's smallest
        return both

    monkeypatch.setattr(child.socket, "socketpair", pair)


def test_full_pipes_freeze_nobody(make: Make, tiny_buffers: None) -> None:
    """Many embeddings beside many streams with log probabilities, a third of which are stopped by their consumer."""
    engine = make()
    streams: dict[str, Stream] = {}
    futures: list[Future[Any]] = []

    def stop_at_five(name: str) -> Callable[[int], None]:
        return lambda seen: engine.abort(name) if seen == 5 else None

    for round_ in range(3):
        futures += [engine.embed([[1] * 200] * 64) for _ in range(16)]
        for i in range(48):
            name = f"{round_}-{i}"
            stream = Stream(then=stop_at_five(name) if i % 3 == 0 else None)
            streams[name] = ask(
                engine, name, COUNT, *[1] * 500, tokens=ENDLESS if i % 3 == 0 else 40, logprobs=20, stream=stream
            )
    for future in futures:
        assert future.result(120)[0].shape == (64, 384)
    for name, stream in streams.items():
        stopped = int(name.split("-")[1]) % 3 == 0
        assert reason(stream.last) == ("abort" if stopped else "length")
        assert stream.tokens[:40] == list(range(len(stream.tokens[:40])))
    assert engine.state.restarts == 0


def test_no_call_waits_for_an_engine_that_stands_still(make: Make, tiny_buffers: None) -> None:
    engine = make()
    waiting = ask(engine, "frozen", FREEZE)
    pid = engine.known().pid
    until(lambda: "T" in Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0], "it stands still")

    def ping() -> None:
        with contextlib.suppress(UnavailableError):
            engine.ping(0.2)

    calls: dict[str, Callable[[], Any]] = {
        "embed": lambda: engine.embed([[1] * 1000] * 200),
        "generate": lambda: ask(engine, "long", *[1] * 4000),
        "abort": lambda: engine.abort("frozen"),
        "set_switches": lambda: engine.set_switches(Switches(max_batch=5)),
        "ping": ping,
        "stop": lambda: engine.stop(1.0),
    }
    for name, call in calls.items():
        done = threading.Thread(target=call, daemon=True)
        done.start()
        done.join(30)
        assert not done.is_alive(), f"{name} waits for the engine"
    assert isinstance(waiting.last, Failed)
    assert engine.state.phase is Phase.STOPPED


def test_an_abort_never_overtakes_its_request(make: Make) -> None:
    engine = make(ready=False)
    streams = []
    for i in range(50):  # some before it is ready, some while it becomes so, some after
        streams.append(ask(engine, f"r{i}", COUNT, tokens=ENDLESS))
        engine.abort(f"r{i}")
        time.sleep(0.02)
    for stream in streams:
        assert reason(stream.last) == "abort"
    engine.abort("nobody's")
    assert serves(engine)


def test_an_embedding_that_nobody_waits_for_is_dropped(make: Make) -> None:
    engine = make()
    future = engine.embed([[HELD]])
    until(lambda: engine.ping(30).waiting_batch == 1, "the engine has it")
    assert future.cancel()
    until(lambda: engine.ping(30).waiting_batch == 0, "the engine drops it")
    assert engine.embed([[1]]).result(30)[0].shape == (1, 384)


def test_a_request_id_in_use_is_refused_and_leaves_the_first_alone(make: Make) -> None:
    engine = make()
    first = ask(engine, "same", COUNT, tokens=ENDLESS)
    second = ask(engine, "same", COUNT).last
    assert isinstance(second, Failed) and second.kind == "invalid"
    engine.abort("same")
    assert reason(first.last) == "abort"


# ---- hanging ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [SLEEP, FREEZE])
def test_a_hung_engine_is_restarted(make: Make, how: int) -> None:
    engine = make(hang_limit=1.0)
    stream = ask(engine, "hang", how)
    assert isinstance(stream.last, Failed) and stream.last.kind == "unavailable"
    assert "hung" in engine.state.detail or engine.state.phase is Phase.READY
    assert serves(engine)
    assert engine.state.restarts == 1


def test_a_long_turn_is_no_hang(make: Make) -> None:
    engine = make(hang_limit=1.0)
    stream = ask(engine, "long", SPIN, 4, tokens=1)
    assert reason(stream.last) == "length"
    assert engine.state.restarts == 0


def test_an_idle_engine_is_heard_of(make: Make) -> None:
    engine = make(hang_limit=1.0)
    time.sleep(1.5)
    until(lambda: engine.silence < 1.0, "it answers while nobody asks")
    assert engine.state.restarts == 0 and not engine.hung


def test_a_slow_consumer_is_not_the_engines_fault(make: Make) -> None:
    engine = make(hang_limit=0.5)
    stream = ask(engine, "slow", COUNT, tokens=2, stream=Stream(then=lambda _: time.sleep(1.5)))
    assert reason(stream.last) == "length"
    assert engine.state.restarts == 0


# ---- dying -----------------------------------------------------------------------------------------------------------


def test_an_engine_that_dies_while_loading_comes_back(make: Make) -> None:
    engine = make("crash:2", ready=False)
    assert serves(engine)
    assert engine.state.restarts == 2


def test_an_engine_that_dies_idle_comes_back(make: Make) -> None:
    engine = make()
    os.kill(engine.known().pid, signal.SIGKILL)
    until(lambda: engine.state.restarts == 1, "its death is seen")
    assert serves(engine)


def test_an_engine_that_dies_in_mid_stream_fails_what_it_was_doing(make: Make) -> None:
    engine = make()
    neighbour, held = ask(engine, "neighbour", COUNT, tokens=ENDLESS), engine.embed([[HELD]])
    stream = ask(engine, "crash", CRASH)
    assert isinstance(stream.last, Failed) and "started again" in stream.last.error
    assert stream.tokens == [0, 1, 2]
    assert isinstance(neighbour.last, Failed)
    with pytest.raises(UnavailableError, match="started again"):
        held.result(30)
    assert serves(engine)


def test_an_engine_that_does_not_end_is_ended(make: Make) -> None:
    engine = make("stays")
    pid, stream = engine.known().pid, ask(engine, "r", COUNT, tokens=ENDLESS)
    engine.stop(1.0)
    assert engine.state.phase is Phase.STOPPED
    assert isinstance(stream.last, Failed)
    assert not Path(f"/proc/{pid}").exists()


def test_stop_while_loading_fails_what_waits(make: Make) -> None:
    engine = make("sleep", ready=False)
    stream, future = ask(engine, "r", COUNT), engine.embed([[1]])
    started = time.monotonic()
    engine.stop(20)
    assert time.monotonic() - started < 15, "it waited for an engine that listens to nobody"
    assert isinstance(stream.last, Failed) and "stopped" in stream.last.error
    with pytest.raises(UnavailableError, match="stopped"):
        future.result(0)


def test_stop_during_back_off_fails_what_waits(make: Make) -> None:
    engine = make("crash:99", ready=False)
    until(lambda: engine.state.restarts >= 3, "it dies again and again")  # the pauses are seconds now
    until(lambda: engine.state.phase is Phase.RESTARTING, "it waits")
    stream, future = ask(engine, "r", COUNT), engine.embed([[1]])
    engine.stop(5)
    assert isinstance(stream.last, Failed)
    with pytest.raises(UnavailableError):
        future.result(0)
    assert isinstance(ask(engine, "late", COUNT).last, Failed)
    assert not engine.wait_ready(0)


def test_restart_brings_back_an_engine_in_any_phase(make: Make) -> None:
    engine = make("crash:1", ready=False)
    engine.restart()  # starting, or dying
    assert serves(engine, "a")
    before = engine.known().pid
    engine.restart()
    until(lambda: engine.known().pid != before and engine.state.phase is Phase.READY, "another process serves")
    assert serves(engine, "b")
    engine.stop(5)
    engine.restart()
    assert serves(engine, "c")


def test_a_process_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    engine = LocalEngine(EngineConfig(model="fake", cache_dir=tmp_path), command=(str(tmp_path / "nothing"),))
    engine.start()
    until(lambda: engine.state.restarts >= 1, "it is tried again")
    assert engine.state.phase is Phase.RESTARTING and "could not be started" in engine.state.detail
    engine.stop(1)


# ---- models and switches that cannot be loaded -----------------------------------------------------------------------


def test_a_model_that_cannot_be_loaded_is_a_lasting_error(make: Make, tmp_path: Path) -> None:
    engine = make("missing", ready=False)
    queued = ask(engine, "queued", COUNT)
    assert not engine.wait_ready(60)
    assert engine.state.phase is Phase.FAILED and "no model here" in engine.state.detail
    for event in (queued.last, ask(engine, "late", COUNT).last):
        assert isinstance(event, Failed) and event.kind == "load_failed" and "no model here" in event.error
    for call in (engine.known, lambda: engine.ping(1), lambda: engine.embed([[1]]).result(1)):
        with pytest.raises(ModelFailedError, match="no model here"):
            call()
    (tmp_path / "model").touch()
    engine.restart()
    assert serves(engine)


def test_a_switch_that_cannot_be_loaded_is_given_up(make: Make) -> None:
    said: list[Switches] = []
    engine = make("no-int8", on_applied=said.append)
    engine.set_switches(Switches(quantization="int8", max_batch=7))
    until(lambda: engine.applied is not None and engine.applied.error, "the failure is told")
    wanted = Switches(max_batch=7)
    assert engine.switches == engine.in_force == wanted, "what else was changed stays"
    assert said[-1] == wanted and all(switches.quantization == "auto" for switches in said)


def test_a_failure_of_the_engines_own_is_not_the_callers(make: Make) -> None:
    engine = make()
    with pytest.raises(TenfoldError, match="out of memory") as failed:
        engine.embed([[OUT_OF_MEMORY]]).result(30)
    assert failed.value.status == 500


def test_pages_that_cannot_be_had_are_given_up(make: Make) -> None:
    engine = make("no-kv8")
    engine.set_switches(Switches(kv_cache="int8", max_batch=7))
    until(lambda: engine.applied is not None and engine.applied.error, "the failure is told")
    assert engine.switches == engine.in_force == Switches()
    engine.set_switches(Switches(max_batch=8))
    until(lambda: engine.in_force == Switches(max_batch=8), "the next change acts")
    assert engine.applied is not None and engine.applied.error is None


def test_a_switch_that_kills_the_engine_is_given_up(make: Make) -> None:
    said: list[Switches] = []
    engine = make("int8-kills", Switches(max_batch=7), on_applied=said.append)
    engine.set_switches(Switches(quantization="int8", max_batch=7))
    until(lambda: engine.state.restarts == 1, "it dies of it")
    assert serves(engine)
    until(lambda: engine.applied is not None and engine.applied.error, "it says why")
    assert engine.switches == engine.in_force == Switches(max_batch=7)
    assert engine.state.restarts == 1, "it died of the same again"
    assert all(switches.quantization == "auto" for switches in said)
    engine.set_switches(Switches(max_batch=8))
    until(lambda: engine.in_force.max_batch == 8, "the next change acts")
    assert engine.applied is not None and engine.applied.error is None


def test_an_engine_begins_with_other_weights_where_those_of_last_time_cannot_be_loaded(make: Make) -> None:
    engine = make("no-int8", Switches(quantization="int8", max_batch=7))
    assert serves(engine)
    until(lambda: engine.applied is not None and engine.applied.error, "it says so")
    assert engine.switches == engine.in_force == Switches(max_batch=7)


def test_a_restart_by_a_person_gives_up_no_switch(make: Make) -> None:
    engine = make("slow-int8")
    engine.set_switches(Switches(quantization="int8"))
    until(lambda: engine.applied is not None and engine.applied.loading == "int8", "it is being loaded")
    engine.restart()
    until(lambda: engine.state.restarts == 1 and engine.state.phase == "ready", "it is back")
    assert engine.switches == Switches(quantization="int8")
    assert engine.applied is None or engine.applied.error is None


def test_switches_asked_for_while_loading_act_when_it_is_ready(make: Make) -> None:
    engine = make(ready=False)
    engine.set_switches(Switches(max_batch=3))
    until(lambda: engine.in_force.max_batch == 3, "they are in force")
    assert engine.applied is not None and engine.applied.switches == engine.switches


def test_what_the_engine_says_of_itself_is_never_stale(make: Make) -> None:
    engine = make()
    assert engine.known().attention == "pages of auto"
    engine.set_switches(Switches(kv_cache="int8"))
    until(lambda: engine.known().attention == "pages of int8", "the change is told")


def test_other_pages_are_told_of(make_engine: Any) -> None:
    """The real core's part of the same promise."""
    harness = make_engine(kv_cache_bytes=16 << 20)
    before = harness.core.info()
    harness.core.set_switches(Switches(quantization="fp32", kv_cache="int8"))
    (told,) = harness.out.of(InfoChanged)
    assert told.info == harness.core.info()
    assert told.info.kv_blocks > before.kv_blocks or told.info.attention == before.attention


def test_weights_that_cannot_be_loaded_leave_the_switch_as_it_was(make_engine: Any, monkeypatch: Any) -> None:
    """The real core's part: "auto" stays "auto", whatever it came to here."""
    harness = make_engine(Switches())
    monkeypatch.setattr(harness.core.serving, "_load", lambda *_: 1 / 0)
    harness.core.set_switches(Switches(quantization="int8"))
    until(lambda: harness.core.has_work, "loading has failed")
    harness.core.step()
    last = harness.out.of(SwitchesApplied)[-1]
    assert last.error and last.loading is None
    assert last.switches == Switches()
