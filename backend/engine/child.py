"""One life of the engine's process: the process, the pipe to it, and the watchdog over it."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from backend.engine.config import EngineConfig
from backend.engine.pipe import Pipe
from backend.engine.watchdog import watch

ROOT = Path(__file__).resolve().parents[2]
LAST_WORDS = 5.0
"""Seconds for a process whose pipe is closed to end by itself."""


@dataclass(frozen=True)
class Death:
    """How a life ended.

    Attributes:
        how: in words.
        served: seconds since it was ready; 0 where it never was.
        load_error: why the model cannot be loaded, if that is why.
    """

    how: str
    served: float = 0.0
    load_error: str | None = None


class Child:
    """A process that was started and given its configuration.

    Args:
        command: what to start; `--fd N` is added.
        config: sent first.
        hang_limit: seconds; see `watchdog.py`.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(self, command: Sequence[str], config: EngineConfig, hang_limit: float) -> None:
        ours, theirs = socket.socketpair()
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
        environment["OMP_NUM_THREADS"] = str(config.thread_count())
        environment.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            self.process = subprocess.Popen(
                [*command, "--fd", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self.pipe = Pipe(Connection(ours.detach()), "to-engine")
        self.pipe.send(config)
        self._hang_limit = hang_limit
        self._ended = threading.Event()
        self._hung = False

    def watch(self) -> None:
        """Begin to end the process should it hang: once it is ready, for loading takes as long as it takes."""
        threading.Thread(target=self._watch, name="engine-watchdog", daemon=True).start()

    def _watch(self) -> None:
        self._hung = watch(self.process, self.pipe, self._hang_limit, self._ended)

    def end(self) -> str:
        """Close the pipe and see the process to its end; says how it died."""
        self._ended.set()
        self.pipe.close()
        try:
            code = self.process.wait(LAST_WORDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        if self._hung:
            return "it hung"
        return f"signal {-code}" if code < 0 else f"exit status {code}"
