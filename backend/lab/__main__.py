"""Programs of the lab that measure the whole product: `python -m backend.lab retrieval|reuse|savings …`.

The only module of the lab that knows how the product is put together; the others are given it, opened.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from backend.lab import retrieval, reuse, savings
from backend.runtime import Runtime, close_runtime, open_runtime
from backend.settings import Settings

PROGRAMS = {"retrieval": retrieval, "reuse": reuse, "savings": savings}


@contextmanager
def opened(**settings: Any) -> Iterator[Runtime]:
    """The product, once it can be asked; see `product.Open`."""
    cache, asked = Settings().cache_dir, Settings(**settings)
    cache.mkdir(parents=True, exist_ok=True)
    if not asked.cache_dir.exists():
        asked.cache_dir.symlink_to(cache)
    runtime = open_runtime(asked)
    try:
        if not runtime.engine.wait_ready(300) or not runtime.index.wait_opened(60):
            raise RuntimeError(runtime.engine.state.detail or "the engine did not start")
        yield runtime
    finally:
        close_runtime()


def main() -> None:
    """Parse arguments and run a program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    programs = parser.add_subparsers(dest="program", required=True)
    for name, program in PROGRAMS.items():
        program.add_arguments(
            programs.add_parser(
                name, description=program.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
            )
        )
    arguments = parser.parse_args()
    PROGRAMS[arguments.program].run(arguments, opened)


if __name__ == "__main__":
    main()
