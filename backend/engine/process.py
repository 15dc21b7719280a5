"""The engine as a process: `python -m backend.engine.process --fd N`, configuration first on the pipe.

`serve` turns a core's loop until it is told to stop or the web process is gone; what a turn does is the core's matter.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from backend.engine.config import EngineConfig
from backend.engine.messages import LoadFailed, Ready, Shutdown
from backend.engine.pipe import Pipe

if TYPE_CHECKING:
    from backend.engine.core import EngineCore

log = logging.getLogger("tenfold.engine")

MOST_UNREAD = 8 << 20
"""Bytes the web process may leave unread before the engine computes no more; it goes on hearing what it is told."""
MESSAGES_A_TURN = 256
"""Messages taken in before the next turn: a flood of requests does not keep those being served waiting."""
LAST_WORDS = 2.0
"""Seconds for the web process to take what was sent before the engine ends."""


def load(config: EngineConfig, emit: Callable[[Any], None]) -> EngineCore:
    """Load the models, and see that the web process will find their tokenizers.

    Raises:
        ModelError: something of them is missing or damaged; says what.
    """
    from backend.engine.core import EngineCore  # torch and the models' code take seconds to import
    from backend.models.checkpoint import load_tokenizer

    core = EngineCore(config, emit)
    for folder in core.folders:
        load_tokenizer(folder)  # not needed here, but nobody can ask for anything without it
    return core


def serve(pipe: Pipe, load: Callable[[Callable[[Any], None]], EngineCore]) -> None:
    """Run an engine behind a pipe until it is told to stop or the other end is gone.

    Args:
        pipe: to the web process.
        load: makes the core, given what to emit messages with.
    """
    try:
        core = load(pipe.send)
    except Exception as error:
        log.exception("the engine could not start")
        pipe.send(LoadFailed(f"{type(error).__name__}: {error}" if not str(error) else str(error)))
        return
    pipe.send(Ready(core.info()))
    core.say_switches()
    try:
        while _take_in(pipe, core):
            if core.has_work and pipe.backlog <= MOST_UNREAD:
                core.step(hold=True)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        log.info("the other end is gone; ending")
    finally:
        core.close()


def _take_in(pipe: Pipe, core: EngineCore) -> bool:
    """Wait for messages while there is nothing to do, and give them to the core; False when told to stop."""
    wait = 0.05 if pipe.backlog > MOST_UNREAD else core.rest()
    messages = 0
    while messages < MESSAGES_A_TURN and pipe.poll(0 if messages else wait):
        message = pipe.receive()
        if isinstance(message, Shutdown):
            return False
        core.handle(message)
        messages += 1
    return True


def main() -> None:
    """Entry point of the engine process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="file descriptor of the pipe to the web process")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s engine %(levelname)s %(message)s")
    pipe = Pipe(Connection(arguments.fd), "to-web")
    config: EngineConfig = pipe.receive()

    serve(pipe, lambda emit: load(config, emit))
    pipe.close(LAST_WORDS)


if __name__ == "__main__":
    main()
