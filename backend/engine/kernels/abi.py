"""The kernels' C interface (kernels.h) as Python sees it: structs, and the functions' signatures.

What a struct takes is compared with what the library says when that is loaded.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any


class KernelsUnavailableError(Exception):
    """The C++ kernels cannot be built here; the portable path serves instead. Says why."""


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


class NativeDraw(ctypes.Structure):
    """`tenfold_draw` of kernels.h."""

    _fields_ = (
        ("uniform", ctypes.c_double), ("temperature", ctypes.c_float), ("top_p", ctypes.c_float),
        ("min_p", ctypes.c_float), ("top_k", ctypes.c_int32),
    )  # fmt: skip


MIRRORS: tuple[type[ctypes.Structure], ...] = (
    NativeBatch, NativeLinear, NativeLayer, NativeModel, NativeEncoderProduct, NativeEncoderLayer, NativeEncoder,
    NativeDraw,
)  # fmt: skip
"""In the order in which `tenfold_sizes` gives what they take."""


def check_sizes(library: ctypes.CDLL, mirrors: Sequence[type[ctypes.Structure]]) -> None:
    """Compare what the library's structs take with their Python mirrors, given in the order of kernels.h.

    Raises:
        KernelsUnavailableError: names those that differ; calls through them would read and write astray.
    """
    sizes = (ctypes.c_int64 * len(mirrors))()
    count = library.tenfold_sizes(sizes, len(mirrors))
    if count != len(mirrors):
        raise KernelsUnavailableError(f"the library has {count} structs and its description {len(mirrors)}")
    wrong = [
        f"{mirror.__name__} ({ctypes.sizeof(mirror)} bytes instead of {size})"
        for mirror, size in zip(mirrors, sizes, strict=True)
        if ctypes.sizeof(mirror) != size
    ]
    if wrong:
        raise KernelsUnavailableError(f"the library and its description differ in {', '.join(wrong)}")


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Give the library's functions their signatures; returns it.

    Raises:
        KernelsUnavailableError: names a function that the library lacks.
    """
    pointer, integer, long, real = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float
    batch, model = ctypes.POINTER(NativeBatch), ctypes.POINTER(NativeModel)
    signatures: dict[str, tuple[list[Any], Any]] = {
        "tenfold_set_threads": ([integer], None),
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
        "tenfold_way": ([], ctypes.c_char_p),
        "tenfold_rows_are_bf16": ([], integer),
        "tenfold_pack_bf16": ([pointer, integer, integer, pointer], None),
        "tenfold_pack_int8": ([pointer, integer, integer, *[pointer] * 3], None),
        "tenfold_multiply": ([ctypes.POINTER(NativeLinear), integer, pointer, pointer, integer, integer], None),
        "tenfold_scratch": ([model, batch], long),
        "tenfold_forward": ([integer, model, batch, *[pointer] * 3], None),
        "tenfold_encode": ([ctypes.POINTER(NativeEncoder), pointer, pointer, integer, pointer], None),
        "tenfold_peak": ([integer], ctypes.c_double),
        "tenfold_sample": ([pointer, integer, integer, ctypes.POINTER(NativeDraw), pointer], None),
        "tenfold_logprobs": ([pointer, integer, integer, pointer, integer, *[pointer] * 3], None),
    }
    for name, (arguments, result) in signatures.items():
        function = getattr(library, name, None)
        if function is None:
            raise KernelsUnavailableError(f"the library lacks {name}")
        function.argtypes, function.restype = arguments, result
    return library
