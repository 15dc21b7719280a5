"""Turns an uploaded file into text: plain formats here, a piece at a time, the others in a process of their own.

A parser that hangs, eats memory or crashes on a crafted file takes only that process with it. It inherits nothing: no
database, no keys, no tokens; and what it gives goes through a file of a bounded size.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from backend.errors import DocumentError, StorageError
from backend.knowledge.convert import DISK_FULL, ERROR
from backend.knowledge.formats import PLAIN, check
from backend.knowledge.plain import decoded
from backend.settings import ROOT
from backend.store.failures import FULL

PIECE = 1 << 20
ENVIRONMENT = {"PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"}
"""All that the parser's process knows of its surroundings."""
TICK = 0.25
"""Seconds between two looks at whether it is still wanted."""


def parse(
    path: Path, name: str, *, timeout: float, most_bytes: int, wanted: Callable[[], None] = lambda: None
) -> str:
    """Return the text of a file.

    Args:
        path: where its bytes are.
        name: what the user called it; the suffix decides the format.
        timeout: seconds a parser may take.
        most_bytes: most text it may give, as UTF-8.
        wanted: asked several times a second; what it raises ends the reading.

    Raises:
        DocumentError: unreadable, encrypted, without text, too slow, or too much text.
        StorageError: the disk is full.
    """
    with path.open("rb") as stream:
        check(name, stream.read(1024), path.stat().st_size)
    if Path(name).suffix.lower() in PLAIN:
        text = _plain(path, name, most_bytes, wanted)
    else:
        text = _in_a_process(path, name, timeout, most_bytes, wanted)
    text = text.replace("\x00", "").strip()
    if not text:
        raise DocumentError(
            f"No text was found in {name}. If it is a scan, run it through text recognition (OCR) first."
        )
    return text


def _plain(path: Path, name: str, most_bytes: int, wanted: Callable[[], None]) -> str:
    if path.stat().st_size > most_bytes:
        raise DocumentError(f"{name} has more than {most_bytes >> 20} MB of text, the limit for one document.")
    out = []
    with path.open("rb") as stream:
        for piece in decoded(iter(lambda: stream.read(PIECE), b""), name):
            wanted()
            out.append(piece)
    return "".join(out)


def _in_a_process(path: Path, name: str, timeout: float, most_bytes: int, wanted: Callable[[], None]) -> str:
    with tempfile.TemporaryFile(dir=path.parent) as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "backend.knowledge.convert", str(path), name, str(most_bytes)],
            cwd=ROOT, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _await(process, name, timeout, wanted)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if process.returncode == DISK_FULL:
            raise StorageError(FULL)
        if process.returncode != 0:
            raise DocumentError(f"{name} could not be read: its parser ran out of memory or crashed.")
        return _given(out, name, most_bytes)


def _await(process: subprocess.Popen[bytes], name: str, timeout: float, wanted: Callable[[], None]) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            process.wait(TICK)
            return
        except subprocess.TimeoutExpired:
            wanted()
            if time.monotonic() >= deadline:
                raise DocumentError(f"{name} could not be read within {timeout:g} s.") from None


def _given(out: IO[bytes], name: str, most_bytes: int) -> str:
    """What the parser's process wrote."""
    if out.seek(0, 2) > most_bytes + 1:
        raise DocumentError(f"{name} gives more than {most_bytes >> 20} MB of text, the limit for one document.")
    out.seek(0)
    kind = out.read(1)
    text = out.read().decode(errors="replace")
    if kind == ERROR:
        raise DocumentError(text)
    return text
