"""The embedding model: a BERT-family encoder with mean or first-token pooling (MiniLM, BGE, E5 and their kin).

Where the C++ kernels serve, a text goes from token ids to its vector within one thread, in 8 bits: its vector is then
the same to the last bit whatever else is in the batch. Elsewhere torch computes it, sequences end to end and without
padding; on a processor each row of its products, and so a vector, is then the same whatever is beside it, too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from backend.engine.embedding.kernel import KernelForward
from backend.engine.embedding.portable import TorchForward
from backend.engine.embedding.weights import read_encoder_shape, read_weights
from backend.engine.quantization.factory import linear_factory
from backend.engine.quantization.linear import working_dtype

BATCH_TOKENS = 1024
"""Tokens after which a forward pass ends; bounds memory and how long a decode step waits (some 40 ms here)."""


class Forward(Protocol):
    """Embeds the token sequences of one batch."""

    together: int  # sequences of a batch should be a multiple of this
    precision: str

    def __call__(self, inputs: list[list[int]]) -> np.ndarray:
        """float32 [inputs, hidden], each row of length 1."""
        ...


class Encoder:
    """Weights and forward pass of a BERT encoder.

    Args:
        folder: Hugging Face folder.
        device: where it runs.
        kernels: the C++ library, or None for torch's products.
        quantize: hold products in 8 bits, where the kernels can.
        cache_dir: where it is kept what need not be computed at every start; None keeps nothing.
    """

    def __init__(
        self, folder: Path, device: torch.device, kernels: ctypes.CDLL | None = None, *, quantize: bool = True,
        cache_dir: Path | None = None,
    ) -> None:  # fmt: skip
        self.shape = shape = read_encoder_shape(folder)
        weights = read_weights(folder, shape)
        self.dimension, self.max_tokens, self.vocab = shape.hidden, shape.positions, shape.vocab
        self._forward: Forward
        if kernels is not None and device.type == "cpu" and KernelForward.supports(shape, kernels):
            bits = 8 if quantize else 16
            self._forward = KernelForward(folder, shape, weights, kernels, bits=bits, cache_dir=cache_dir)
        else:
            dtype, make = linear_factory(
                "bf16" if working_dtype(device) is torch.bfloat16 else "fp32", device, kernels, invariant=True
            )
            linears = {name: make(weights[name], weights[f"{name}.bias"], name=name) for name in shape.products}
            self._forward = TorchForward(shape, weights, device, linears, dtype)
        self.precision = self._forward.precision

    def embed(self, inputs: list[list[int]]) -> np.ndarray:
        """Embed token sequences; returns float32 [inputs, dimension], each row of length 1."""
        out = np.empty((len(inputs), self.dimension), dtype=np.float32)
        for rows in self.passes(inputs):
            out[rows] = self.forward([inputs[i] for i in rows])
        return out

    def forward(self, inputs: list[list[int]]) -> np.ndarray:
        """One forward pass; returns float32 [inputs, dimension], each row of length 1."""
        return self._forward(inputs)

    def passes(self, inputs: list[list[int]]) -> Iterator[list[int]]:
        """Rows of one forward pass each, the longest first: equal lengths together, and no thread left without one."""
        order = sorted(range(len(inputs)), key=lambda i: -len(inputs[i]))
        start = tokens = 0
        for at, row in enumerate(order, start=1):
            tokens += len(inputs[row])
            if tokens >= BATCH_TOKENS and (at - start) % self._forward.together == 0:
                yield order[start:at]
                start, tokens = at, 0
        if start < len(order):
            yield order[start:]
