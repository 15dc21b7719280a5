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
        ("n", ctypes.c_int32), ("k", ctypes.c_int32), ("bits", ctypes.c_int32), ("rotated", ctypes.c_int32),
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


_pointer, _int, _long, _real = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float
_batch, _model = ctypes.POINTER(NativeBatch), ctypes.POINTER(NativeModel)
SIGNATURES: dict[str, tuple[list[Any], Any]] = {
    "tenfold_set_threads": ([_int], None),
    "tenfold_page_bytes": ([_int, _int], _long),
    "tenfold_plan": ([_batch], _pointer),
    "tenfold_plan_free": ([_pointer], None),
    "tenfold_rope_and_write": ([_int, _batch, *[_pointer] * 6, _int], None),
    "tenfold_attention": ([_int, _batch, *[_pointer] * 5], None),
    "tenfold_read_tokens": ([_int, _pointer, _pointer, *[_int] * 3, _pointer, _pointer], None),
    "tenfold_write_tokens": ([_int, *[_pointer] * 2, *[_int] * 3, *[_pointer] * 4], None),
    "tenfold_summarize": ([_int, *[_pointer] * 3, *[_int] * 3], None),
    "tenfold_add_rms_norm": ([_int, *[_pointer] * 4, *[_int] * 2, _real], None),
    "tenfold_silu_mul": ([_int, *[_pointer] * 2, *[_int] * 2], None),
    "tenfold_norm_heads": ([_int, *[_pointer] * 3, *[_int] * 4, _real], None),
    "tenfold_way": ([], ctypes.c_char_p),
    "tenfold_has_tiles": ([], _int),
    "tenfold_use_tiles": ([_int], None),
    "tenfold_rows_are_bf16": ([], _int),
    "tenfold_pack_bf16": ([_pointer, _int, _int, _pointer], None),
    "tenfold_pack_int8": ([_pointer, _int, _int, *[_pointer] * 3], None),
    "tenfold_multiply": ([ctypes.POINTER(NativeLinear), _int, _pointer, _pointer, _int, _int], None),
    "tenfold_scratch": ([_model, _batch], _long),
    "tenfold_forward": ([_int, _model, _batch, *[_pointer] * 3], None),
    "tenfold_encode": ([ctypes.POINTER(NativeEncoder), _pointer, _pointer, _int, _pointer], None),
    "tenfold_peak": ([_int], ctypes.c_double),
    "tenfold_sample": ([_pointer, _int, _int, ctypes.POINTER(NativeDraw), _pointer], None),
    "tenfold_logprobs": ([_pointer, _int, _int, _pointer, _int, *[_pointer] * 3], None),
}
"""Arguments and result of each function."""

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
    for name, (arguments, result) in SIGNATURES.items():
        function = getattr(library, name, None)
        if function is None:
            raise KernelsUnavailableError(f"the library lacks {name}")
        function.argtypes, function.restype = arguments, result
    return library
