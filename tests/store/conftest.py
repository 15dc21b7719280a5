"""A PostgreSQL server of our own, where one is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

USER = "nobody"
"""Runs PostgreSQL where we are root, as which it refuses to."""


def _binary(name: str) -> str | None:
    found = shutil.which(name) or next(iter(sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))), None)
    return None if found is None else str(found)


def _run(*command: str) -> None:
    as_user = ["runuser", "-u", USER, "--"] if os.getuid() == 0 else []
    subprocess.run([*as_user, *command], check=True, capture_output=True, timeout=120, cwd="/")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[..., str]]:
    """Makes a database of a name, with options of `createdb`, and gives its URL."""
    initdb, control, create = map(_binary, ("initdb", "pg_ctl", "createdb"))
    if initdb is None or control is None or create is None:
        pytest.skip("no PostgreSQL is installed here")
    folder = Path(tempfile.mkdtemp(prefix="tenfold-pg-"))  # short: a socket's path has at most 107 characters
    if os.getuid() == 0:
        shutil.chown(folder, USER)
    _run(initdb, "-D", f"{folder}/data", "-U", "tenfold", "-A", "trust")
    options = f"-c listen_addresses='' -k {folder}"
    _run(control, "-D", f"{folder}/data", "-o", options, "-l", f"{folder}/log", "-w", "start")

    def make(name: str, *more: str) -> str:
        _run(create, "-h", str(folder), "-U", "tenfold", *more, name)
        return f"postgresql+psycopg://tenfold@/{name}?host={folder}"

    yield make
    _run(control, "-D", f"{folder}/data", "-m", "immediate", "-w", "stop")
    shutil.rmtree(folder)
