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
from collections.abc import Iterator, Sequence
from pathlib import Path
from stat import S_ISDIR
from typing import Any

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
SOURCES = sorted(HERE.glob("*.cpp"))
HEADERS = sorted(HERE.glob("*.h"))
FLAGS = ["-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC", "-std=c++17"]


class KernelsUnavailableError(Exception):
    """The C++ kernels cannot be built here; the portable path serves instead. Says why."""


BUILD_SECONDS = 300


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
    torch must be imported before, so that both share its OpenMP threads.

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
    log.info("building the CPU kernels, once")
    with tempfile.TemporaryDirectory(dir=library.parent) as aside:
        built = Path(aside) / library.name
        try:
            result = subprocess.run(
                [compiler, *FLAGS, *map(str, SOURCES), "-o", str(built)],
                capture_output=True,
                text=True,
                timeout=BUILD_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise KernelsUnavailableError(f"{compiler} did not end within {BUILD_SECONDS} s") from error
        except OSError as error:
            raise KernelsUnavailableError(f"{compiler} cannot be run: {error}") from error
        if result.returncode:
            raise KernelsUnavailableError(f"{compiler} failed: {result.stderr.strip()[-500:]}")
        os.replace(built, library)
    return library


def _load(library: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(library))
    check_sizes(loaded, MIRRORS)
    return _declare(loaded)


def check_sizes(library: ctypes.CDLL, mirrors: Sequence[type[ctypes.Structure]]) -> None:
    """Compare what the library's structs take with their Python mirrors, given in the order of kernels.h.

    Raises:
        KernelsUnavailableError: names those that differ; calls through them would read and write astray.
    """
    sizes = (ctypes.c_int64 * len(MIRRORS))()
    library.tenfold_sizes(sizes)
    wrong = [
        f"{mirror.__name__} ({ctypes.sizeof(mirror)} bytes instead of {size})"
        for mirror, size in zip(mirrors, sizes, strict=True)
        if ctypes.sizeof(mirror) != size
    ]
    if wrong:
        raise KernelsUnavailableError(f"the library and its description differ in {', '.join(wrong)}")


class NativeBatch(ctypes.Structure):
    """`tenfold_batch` of kernels.h."""

    _fields_ = (
        ("positions", ctypes.c_void_p), ("slots", ctypes.c_void_p), ("query_starts", ctypes.c_void_p),
        ("context_lens", ctypes.c_void_p), ("tables", ctypes.c_void_p), ("table_stride", ctypes.c_int64),
        ("sequences", ctypes.c_int32), ("tokens", ctypes.c_int32), ("heads", ctypes.c_int32),
        ("kv_heads", ctypes.c_int32), ("head_size", ctypes.c_int32), ("kind", ctypes.c_int32),
        ("keep_percent", ctypes.c_int32), ("share_pages", ctypes.c_int32),
    )  # fmt: skip


class NativeLinear(ctypes.Structure):
    """`tenfold_linear` of kernels.h."""

    _fields_ = (
        ("packed", ctypes.c_void_p), ("scales", ctypes.c_void_p), ("sums", ctypes.c_void_p), ("bias", ctypes.c_void_p),
        ("n", ctypes.c_int32), ("k", ctypes.c_int32), ("bits", ctypes.c_int32), ("unused", ctypes.c_int32),
    )  # fmt: skip


class NativeLayer(ctypes.Structure):
    """`tenfold_layer` of kernels.h."""

    _fields_ = (
        ("input_norm", ctypes.c_void_p), ("post_norm", ctypes.c_void_p), ("query_norm", ctypes.c_void_p),
        ("key_norm", ctypes.c_void_p), ("qkv", NativeLinear), ("output", NativeLinear), ("gate_up", NativeLinear),
        ("down", NativeLinear), ("pages", ctypes.c_void_p), ("summaries", ctypes.c_void_p), ("rotate", ctypes.c_int64),
    )  # fmt: skip


class NativeModel(ctypes.Structure):
    """`tenfold_model` of kernels.h."""

    _fields_ = (
        ("layers", ctypes.POINTER(NativeLayer)), ("cosine", ctypes.c_void_p), ("sine", ctypes.c_void_p),
        ("count", ctypes.c_int32), ("hidden", ctypes.c_int32), ("intermediate", ctypes.c_int32),
        ("eps", ctypes.c_float),
    )  # fmt: skip


class NativeEncoderProduct(ctypes.Structure):
    """`tenfold_encoder_product` of kernels.h."""

    _fields_ = (("linear", NativeLinear), ("smooth", ctypes.c_void_p))


class NativeEncoderLayer(ctypes.Structure):
    """`tenfold_encoder_layer` of kernels.h."""

    _fields_ = (
        ("qkv", NativeEncoderProduct), ("output", NativeEncoderProduct), ("inner", NativeEncoderProduct),
        ("outer", NativeEncoderProduct), ("attention_norm", ctypes.c_void_p), ("attention_norm_bias", ctypes.c_void_p),
        ("outer_norm", ctypes.c_void_p), ("outer_norm_bias", ctypes.c_void_p),
    )  # fmt: skip


class NativeEncoder(ctypes.Structure):
    """`tenfold_encoder` of kernels.h."""

    _fields_ = (
        ("layers", ctypes.POINTER(NativeEncoderLayer)), ("words", ctypes.c_void_p), ("places", ctypes.c_void_p),
        ("norm", ctypes.c_void_p), ("norm_bias", ctypes.c_void_p), ("count", ctypes.c_int32),
        ("hidden", ctypes.c_int32), ("intermediate", ctypes.c_int32), ("heads", ctypes.c_int32),
        ("pool_first", ctypes.c_int32), ("eps", ctypes.c_float),
    )  # fmt: skip


MIRRORS: tuple[type[ctypes.Structure], ...] = (
    NativeBatch, NativeLinear, NativeLayer, NativeModel, NativeEncoderProduct, NativeEncoderLayer, NativeEncoder
)  # fmt: skip
"""In the order in which `tenfold_sizes` gives what they take."""


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, integer, long, real = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float
    batch = ctypes.POINTER(NativeBatch)
    signatures: dict[str, tuple[list[Any], Any]] = {
        "tenfold_has_gemm": ([], integer),
        "tenfold_page_bytes": ([integer, integer], long),
        "tenfold_plan": ([batch], pointer),
        "tenfold_plan_free": ([pointer], None),
        "tenfold_rope_and_write": ([integer, batch, *[pointer] * 6, integer], None),
        "tenfold_attention": ([integer, batch, *[pointer] * 5], None),
        "tenfold_read_tokens": ([integer, pointer, pointer, *[integer] * 3, pointer, pointer], None),
        "tenfold_write_tokens": ([integer, *[pointer] * 2, *[integer] * 3, *[pointer] * 4], None),
        "tenfold_summarize": ([integer, *[pointer] * 3, *[integer] * 3], None),
        "tenfold_add_rms_norm": ([integer, *[pointer] * 4, *[integer] * 2, real], None),
        "tenfold_silu_mul": ([integer, *[pointer] * 2, *[integer] * 2], None),
        "tenfold_norm_heads": ([integer, *[pointer] * 3, *[integer] * 4, real], None),
    }
    if library.tenfold_has_gemm():
        model = ctypes.POINTER(NativeModel)
        signatures |= {
            "tenfold_pack_bf16": ([pointer, integer, integer, pointer], None),
            "tenfold_pack_int8": ([pointer, integer, integer, *[pointer] * 3], None),
            "tenfold_gemm_bf16": ([*[pointer] * 4, *[integer] * 4], None),
            "tenfold_gemm_int8": ([pointer, integer, *[pointer] * 5, *[integer] * 4], None),
            "tenfold_scratch": ([model, batch], long),
            "tenfold_forward": ([model, batch, *[pointer] * 3], None),
            "tenfold_encode": ([ctypes.POINTER(NativeEncoder), pointer, pointer, integer, pointer], None),
            "tenfold_peak": ([integer], ctypes.c_double),
        }
    for name, (arguments, result) in signatures.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, result
    return library
