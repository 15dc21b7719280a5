"""Builds and loads the C++ kernels: once per source, compiler and processor, then from the cache."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

log = logging.getLogger(__name__)

SOURCES = [Path(__file__).with_name(name) for name in ("cpu.cpp", "gemm.cpp")]
FLAGS = ["-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC", "-std=c++17"]


class KernelsUnavailableError(Exception):
    """The C++ kernels cannot be built here; the portable path serves instead. Says why."""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith("flags")), platform.processor())
    except OSError:
        return platform.machine() + platform.processor()


@functools.cache
def load_cpu_kernels(cache_dir: Path) -> ctypes.CDLL:
    """Return the kernel library, building it where the cache has none for this source and processor.

    torch must be imported before, so that both share its OpenMP threads.

    Raises:
        KernelsUnavailableError: no compiler, or the build failed.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise KernelsUnavailableError("no C++ compiler was found (g++ or clang++)")
    sources = [source.read_bytes() for source in SOURCES]
    flags = " ".join([compiler, *FLAGS]).encode()
    key = hashlib.sha256(b"\0".join([*sources, flags, _processor().encode()])).hexdigest()[:16]
    library = cache_dir / "kernels" / f"cpu-{key}.so"
    if not library.is_file():
        library.parent.mkdir(parents=True, exist_ok=True)
        log.info("building the CPU kernels, once")
        with tempfile.TemporaryDirectory(dir=library.parent) as aside:
            built = Path(aside) / library.name
            result = subprocess.run(
                [compiler, *FLAGS, *map(str, SOURCES), "-o", str(built)],
                capture_output=True,
                text=True,
                timeout=300,
            )
            if result.returncode:
                raise KernelsUnavailableError(f"{compiler} failed: {result.stderr.strip()[-500:]}")
            os.replace(built, library)
    return _declare(ctypes.CDLL(str(library)))


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, integer, long, real = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float
    signatures: dict[str, list[type]] = {
        "tenfold_attention": [integer, *[pointer] * 5, long, *[pointer] * 2, *[integer] * 4, real],
        "tenfold_rope_and_write": [integer, *[pointer] * 8, *[integer] * 5],
        "tenfold_add_rms_norm": [integer, *[pointer] * 4, *[integer] * 2, real],
        "tenfold_silu_mul": [integer, *[pointer] * 2, *[integer] * 2],
    }
    library.tenfold_has_gemm.restype = integer
    if library.tenfold_has_gemm():
        signatures |= {
            "tenfold_pack_bf16": [pointer, integer, integer, pointer],
            "tenfold_pack_int8": [pointer, integer, integer, *[pointer] * 3],
            "tenfold_gemm_bf16": [*[pointer] * 4, *[integer] * 4],
            "tenfold_gemm_int8": [pointer, integer, *[pointer] * 5, *[integer] * 4],
        }
    for name, arguments in signatures.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, None
    return library
