"""Builds and loads the C++ kernels: once per source, compiler and processor, then from the cache."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from stat import S_ISDIR

from filelock import FileLock, Timeout

from backend.engine.kernels.abi import MIRRORS, KernelsUnavailableError, check_sizes, declare

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
SOURCES = sorted(HERE.glob("*.cpp"))
HEADERS = sorted(HERE.glob("*.h"))
FLAGS = ["-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fPIC", "-pthread", "-std=c++20"]
BUILD_SECONDS = 300
"""Longest that a compiler may take for one source, and that somebody waits for another process to build."""


def _processor() -> str:
    """The instructions of this processor: "flags" on x86, "Features" on ARM."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return platform.machine() + platform.processor()


def _folders(cache_dir: Path) -> Iterator[Path]:
    """Where the library may lie: in the cache, else in a folder of this user alone, since it is code that is run.

    Raises:
        KernelsUnavailableError: the second one belongs to somebody else.
    """
    yield cache_dir / "kernels"
    owner = os.getuid() if hasattr(os, "getuid") else 0
    private = Path(tempfile.gettempdir()) / f"tenfold-kernels-{owner}"
    private.mkdir(mode=0o700, exist_ok=True)
    stat = private.lstat()
    if not S_ISDIR(stat.st_mode) or stat.st_uid != owner or stat.st_mode & 0o022:
        raise KernelsUnavailableError(f"{private} can be written by others")
    yield private


@functools.cache
def load_cpu_kernels(cache_dir: Path) -> ctypes.CDLL:
    """Return the kernel library, building it where the cache has none for this source and processor.

    Where the cache cannot be written, or nothing in it can be run, a private temporary folder takes its place.

    Raises:
        KernelsUnavailableError: no compiler, the build failed, or no folder is left to run it from.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise KernelsUnavailableError("no C++ compiler was found (g++ or clang++)")
    sources = [source.read_bytes() for source in SOURCES + HEADERS]
    flags = " ".join([compiler, *FLAGS]).encode()
    key = hashlib.sha256(b"\0".join([*sources, flags, _processor().encode()])).hexdigest()[:16]
    problem = ""
    try:
        for folder in _folders(cache_dir):
            try:
                return _load(_built(compiler, folder / f"cpu-{key}.so"))
            except OSError as error:  # read-only, full, mounted noexec
                problem = str(error)
                log.warning("the CPU kernels cannot be kept in %s: %s", folder, error)
    except OSError as error:
        problem = str(error)
    raise KernelsUnavailableError(f"the library cannot be loaded ({problem})")


def _built(compiler: str, library: Path) -> Path:
    """Build the library unless it is there.

    Raises:
        KernelsUnavailableError: the compiler failed or takes for ever.
        OSError: the folder cannot be written.
    """
    if library.is_file():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(library.with_suffix(".lock"), timeout=BUILD_SECONDS):  # two at once would take twice as long
            if not library.is_file():
                _build(compiler, library)
    except Timeout as error:
        raise KernelsUnavailableError(f"another process has been building it for {BUILD_SECONDS} s") from error
    return library


def _build(compiler: str, library: Path) -> None:
    log.info("building the CPU kernels, once")
    with tempfile.TemporaryDirectory(dir=library.parent) as aside, ThreadPoolExecutor(os.cpu_count()) as pool:
        built = Path(aside) / library.name
        objects = [Path(aside) / f"{source.stem}.o" for source in SOURCES]
        largest_first = sorted(zip(SOURCES, objects, strict=True), key=lambda pair: -pair[0].stat().st_size)
        compiling = [
            pool.submit(_run, [compiler, *FLAGS, "-c", str(source), "-o", str(to)]) for source, to in largest_first
        ]
        for one in compiling:
            one.result()
        _run([compiler, "-shared", "-pthread", *map(str, objects), "-o", str(built)])
        os.replace(built, library)


def _run(command: list[str]) -> None:
    compiler = command[0]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise KernelsUnavailableError(f"{compiler} did not end within {BUILD_SECONDS} s") from error
    except OSError as error:
        raise KernelsUnavailableError(f"{compiler} cannot be run: {error}") from error
    if result.returncode:
        raise KernelsUnavailableError(f"{compiler} failed: {result.stderr.strip()[-500:]}")


def build_of(kernels: ctypes.CDLL | None) -> str:
    """Names a build: another where sources, compiler or processor are."""
    return "" if kernels is None else Path(kernels._name).stem


def _load(library: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(library))
    check_sizes(loaded, MIRRORS)
    return declare(loaded)
