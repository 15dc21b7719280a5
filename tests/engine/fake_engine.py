"""An engine process without a model: the real pipe and the real loop around a core that does as it is told.

What goes wrong is asked for by the model's name (while loading), by the first token of a prompt (afterwards), and by
the switches. Files in `cache_dir` outlive a life of the process.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from backend.engine.about import EngineInfo
from backend.engine.config import EngineConfig
from backend.engine.messages import (
    Abort,
    Embed,
    Embedded,
    Failed,
    Finished,
    Generate,
    InfoChanged,
    Logprob,
    Ping,
    SetSwitches,
    Stats,
    StepOutput,
    SwitchesApplied,
    Usage,
)
from backend.engine.pipe import Pipe
from backend.engine.process import serve

COUNT, SLEEP, CRASH, SPIN, FREEZE = range(5)
"""First token of a prompt: count up to max_tokens, never return from a turn, die, compute for long, stand still."""
HELD, OUT_OF_MEMORY = 9, 10
"""First token of an embedding input that is never answered, and of one at which the model fails."""
DIMENSION = 384

INFO = EngineInfo(
    model_folder="", fingerprint="f", family="fake", vocab=1000, eos_ids=(0,), max_model_len=4096, variant="bf16",
    device="fake", device_type="cpu", attention="pages", products="none", notices=(), kv_blocks=64,
    block_size=16, load_seconds=0.0, embedding_folder="", embedding_fingerprint="e", embedding_dimension=DIMENSION,
    embedding_max_tokens=512, pid=0,
)  # fmt: skip


class FakeCore:
    """See the module."""

    def __init__(self, config: EngineConfig, emit: Callable[[Any], None]) -> None:
        self.config, self.emit, self.switches = config, emit, config.switches
        self.live: dict[str, tuple[Generate, int]] = {}
        self.embeds: list[Embed] = []
        self.held: list[Embed] = []
        self.asked: list[str] = []
        folder = config.cache_dir
        life = len(list(folder.glob("life-*")))
        (folder / f"life-{life}").touch()
        what, _, times = config.model.partition(":")
        if what == "crash" and life < int(times):
            os._exit(3)
        if what == "sleep":
            time.sleep(3600)
        if what == "missing" and not (folder / "model").exists():
            raise ValueError("there is no model here")
        if what == "no-int8" and config.switches.quantization == "int8":
            raise ValueError("int8 cannot be loaded here")

    @property
    def has_work(self) -> bool:
        return bool(self.live or self.embeds)

    def info(self) -> EngineInfo:
        return replace(INFO, pid=os.getpid(), attention=f"pages of {self.switches.kv_cache}")

    def say_switches(self, loading: str | None = None, error: str | None = None) -> None:
        self.emit(SwitchesApplied(self.switches, "bf16", loading, error))

    def handle(self, message: Any) -> None:
        if isinstance(message, Generate):
            self.live[message.request_id] = (message, 0)
        elif isinstance(message, Abort):
            if message.request_id in self.live:
                self.finish(message.request_id, "abort")
            self.held = [embed for embed in self.held if embed.request_id != message.request_id]
        elif isinstance(message, Embed):
            (self.held if message.inputs[0][0] == HELD else self.embeds).append(message)
        elif isinstance(message, Ping):
            self.emit(self.stats(message.nonce))
        elif isinstance(message, SetSwitches):
            self.set_switches(message)

    def set_switches(self, message: SetSwitches) -> None:
        before, self.switches = self.switches, message.switches
        if message.switches.kv_cache == "int8" and self.config.model == "no-kv8":
            self.switches = before
            self.say_switches(error="These pages cannot be had")
            return
        if message.switches.quantization == before.quantization:
            self.emit(InfoChanged(self.info()))
            self.say_switches()
            return
        self.say_switches(loading=message.switches.quantization)
        if message.switches.quantization == "int8" and self.config.model == "int8-kills":
            time.sleep(0.2)  # what was said is written by then
            os._exit(1)
        if message.switches.quantization == "int8" and self.config.model == "slow-int8":
            return  # it goes on loading
        if message.switches.quantization == "int8" and self.config.model == "no-int8":
            self.switches = replace(message.switches, quantization=before.quantization)
            self.say_switches(error="int8 could not be loaded")
            return
        self.say_switches()

    def rest(self) -> float | None:
        return 0.0 if self.has_work else None

    def step(self, *, hold: bool = False) -> None:
        if self.embeds:
            embed = self.embeds.pop(0)
            if embed.inputs[0][0] == OUT_OF_MEMORY:
                self.emit(Failed(embed.request_id, "The embedding failed: out of memory", "internal"))
                return
            vectors = bytes(4 * DIMENSION * len(embed.inputs))
            self.emit(Embedded(embed.request_id, vectors, DIMENSION, 0.0))
        out = []
        for request_id, (request, made) in list(self.live.items()):
            command = request.prompt[0]
            if command == SLEEP:
                time.sleep(3600)
            elif command == CRASH and made == 3:
                time.sleep(0.2)
                os._exit(9)
            elif command == FREEZE:
                os.kill(os.getpid(), signal.SIGSTOP)
            elif command == SPIN:
                until = time.monotonic() + request.prompt[1]
                while time.monotonic() < until:
                    pass
            logprob = Logprob(-1.0, tuple((i, -1.0) for i in range(request.sampling.logprobs or 0)))
            out.append((request_id, made, logprob))
            self.live[request_id] = (request, made + 1)
        if out:
            self.emit(StepOutput(out))
        for request_id, (request, made) in list(self.live.items()):
            if made >= request.sampling.max_tokens:
                self.finish(request_id, "length")

    def finish(self, request_id: str, reason: str) -> None:
        request, made = self.live.pop(request_id)
        now = time.monotonic()
        usage = Usage(len(request.prompt), 0, made, 0.0, 0.0, now, now, now, now, "bf16")
        self.emit(Finished(request_id, reason, usage))

    def stats(self, nonce: int) -> Stats:
        return Stats(
            nonce=nonce, uptime=1.0, busy_seconds=0.0, steps=0, running=len(self.live), waiting_realtime=0,
            waiting_batch=len(self.held), kv_free=64, kv_cached=0, kv_used=0, prompt_tokens=0, cached_tokens=0,
            output_tokens=0, preemptions=0, drafted_tokens=0, accepted_tokens=0, embedded_texts=0,
            embedding_seconds=0.0, variant="bf16", memory_bytes=0,
        )  # fmt: skip

    def close(self) -> None:
        if self.config.model == "stays":
            time.sleep(3600)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    pipe = Pipe(Connection(parser.parse_args().fd), "to-web")
    config: EngineConfig = pipe.receive()
    serve(pipe, lambda emit: FakeCore(config, emit))  # type: ignore[arg-type,return-value]
    pipe.close(2.0)


if __name__ == "__main__":
    main()
