"""Objects that a compiler makes of our sources for tests alone, kept between runs by all that they depend on."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock

from backend.engine.kernels.build import FLAGS, HEADERS, HERE, _processor
from tests.conftest import kept_folder

COMPILER = shutil.which("g++") or shutil.which("clang++")


@functools.cache
def _everywhere() -> bytes:
    """What every object depends on: headers, compiler and processor."""
    assert COMPILER is not None, "the kernels were not built either"
    headers = (*HEADERS, *sorted(Path(__file__).parent.glob("*.h")))
    version = subprocess.run([COMPILER, "--version"], check=True, capture_output=True).stdout
    return b"\0".join([version, _processor().encode(), *(header.read_bytes() for header in headers)])


def compiled(source: Path, flags: Sequence[str]) -> Path:
    """The object of a source, made where it is not kept.

    Raises:
        CalledProcessError: the compiler refuses it.
    """
    other = any(flag.startswith("-march") for flag in flags)  # than this processor
    usual = [flag for flag in FLAGS if not (other and flag.startswith("-march"))]
    told = [str(COMPILER), *usual, *flags, f"-I{HERE}"]
    key = hashlib.sha256(b"\0".join([_everywhere(), source.read_bytes(), *map(str.encode, told)])).hexdigest()[:16]
    file = kept_folder() / "objects" / f"{source.stem}-{key}.o"
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        if not file.is_file():
            with tempfile.TemporaryDirectory(dir=file.parent) as aside:
                to = Path(aside) / file.name
                to.touch()  # where the syntax alone is looked at, the compiler writes none
                subprocess.run([*told, "-c", str(source), "-o", str(to)], check=True, capture_output=True)
                os.replace(to, file)
    return file


def linked(to: Path, sources: Iterable[Path], flags: Sequence[str], *, program: bool = False) -> Path:
    """A library, or a program, of sources that are all told the same."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda source: str(compiled(source, flags)), sources))
    kind = [] if program else ["-shared"]
    subprocess.run([str(COMPILER), *kind, "-pthread", *objects, "-o", str(to)], check=True, capture_output=True)
    return to
