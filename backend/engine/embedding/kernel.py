"""The encoder in C++: a text goes from token ids to its vector within one thread, in 8 bits after smoothing."""

from __future__ import annotations

import ctypes
import itertools
from pathlib import Path

import numpy as np
import torch

from backend.engine.embedding.smoothing import kept_smoothing
from backend.engine.embedding.weights import PRODUCTS, EncoderShape, Weights
from backend.engine.kernels.abi import NativeEncoder, NativeEncoderLayer, NativeEncoderProduct
from backend.engine.memory import Arena
from backend.engine.quantization.kernel import PANEL, KernelLinear, is_fast, rows_dtype, way


class KernelForward:
    """The encoder in C++, a text per thread at a time.

    Args:
        folder: Hugging Face folder.
        shape: of the model.
        weights: in float32.
        kernels: the C++ library, with the instructions it needs.
        bits: 8 or 16, of the products.
        cache_dir: where it is kept what smooths 8 bits; None keeps nothing.
    """

    def __init__(
        self, folder: Path, shape: EncoderShape, weights: Weights, kernels: ctypes.CDLL, *, bits: int,
        cache_dir: Path | None = None,
    ) -> None:  # fmt: skip
        self._kernels, self._hidden = kernels, shape.hidden
        factors = kept_smoothing(folder, shape, weights, cache_dir) if bits == 8 else {}
        arena = Arena()
        self._held: list[torch.Tensor | KernelLinear] = []

        def pointer(tensor: torch.Tensor) -> int:
            tensor = tensor.float().contiguous()
            self._held.append(tensor)
            return tensor.data_ptr()

        def product(name: str) -> NativeEncoderProduct:
            weight, factor = weights[name], factors.get(name)
            if factor is not None:
                weight = weight * factor
            linear = KernelLinear(weight, weights[f"{name}.bias"], kernels, arena, bits=bits)
            self._held.append(linear)
            return NativeEncoderProduct(linear.native(), 0 if factor is None else pointer(1 / factor))

        self._layers = (NativeEncoderLayer * shape.layers)()
        for i in range(shape.layers):
            norms = [f"{i}.{norm}{part}" for norm in ("attention_norm", "outer_norm") for part in ("", ".bias")]
            self._layers[i] = NativeEncoderLayer(
                *(product(f"{i}.{name}") for name in PRODUCTS), *(pointer(weights[name]) for name in norms)
            )
        self._model = NativeEncoder(
            self._layers, pointer(weights["words"]), pointer(weights["places"]), pointer(weights["norm"]),
            pointer(weights["norm.bias"]), shape.layers, shape.hidden, shape.intermediate, shape.heads,
            int(shape.pool_first), shape.eps,
        )  # fmt: skip
        self.together = torch.get_num_threads()
        by = "tiles" if way(kernels).startswith("AMX") else str(rows_dtype(kernels)).removeprefix("torch.")
        self.precision = f"kernel-{bits}-{shape.pooling}-2-{by}"

    @staticmethod
    def supports(shape: EncoderShape, kernels: ctypes.CDLL | None) -> bool:
        """Whether the kernels are the fastest way, and the sizes are whole panels."""
        sizes = (shape.hidden, shape.intermediate, shape.hidden // shape.heads)
        return is_fast(kernels) and all(size % PANEL == 0 for size in sizes)

    def __call__(self, inputs: list[list[int]]) -> np.ndarray:
        """See `Forward`."""
        starts = np.fromiter(itertools.accumulate(map(len, inputs), initial=0), dtype=np.int32)
        ids = np.fromiter(itertools.chain.from_iterable(inputs), dtype=np.int32, count=int(starts[-1]))
        out = np.empty((len(inputs), self._hidden), dtype=np.float32)
        self._kernels.tenfold_encode(self._model, ids.ctypes.data, starts.ctypes.data, len(inputs), out.ctypes.data)
        return out
