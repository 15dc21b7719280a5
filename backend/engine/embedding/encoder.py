"""The embedding model: a BERT-family encoder with mean or first-token pooling (MiniLM, BGE, E5 and their kin).

Where the C++ kernels serve, a text goes from token ids to its vector within one thread, in 8 bits: its vector is then
the same to the last bit whatever else is in the batch. Elsewhere torch computes it, sequences end to end and without
padding; on a processor each row of its products, and so a vector, is then the same whatever is beside it, too.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

from backend.engine.embedding.weights import PRODUCTS, EncoderShape, Weights, read_encoder_shape, read_weights
from backend.engine.kernels.build import NativeEncoder, NativeEncoderLayer, NativeEncoderProduct
from backend.engine.memory import Arena
from backend.engine.quantization.linear import PANEL, DenseLinear, KernelLinear, Linear, linear_factory, working_dtype
from backend.engine.quantization.smooth import TEXT, smoothing_factor
from backend.models.checkpoint import load_tokenizer

BATCH_TOKENS = 1024
"""Tokens after which a forward pass ends; bounds memory and how long a decode step waits (some 40 ms here)."""

SMOOTHED = ("qkv", "inner")
"""Products whose inputs are smoothed before they are quantized: both come from a norm, with outliers in few channels.
With it the mean cosine to float32 is 0.9991 and without 0.997, all products in 8 bits; for the other two it does harm.
"""
ALPHA = 0.7
CALIBRATION_TOKENS = 512


class Forward(Protocol):
    """Embeds the token sequences of one batch."""

    together: int  # sequences of a batch should be a multiple of this
    precision: str

    def __call__(self, inputs: list[list[int]]) -> np.ndarray:
        """float32 [inputs, hidden], each row of length 1."""
        ...


class TorchForward:
    """The encoder in torch, on any device.

    Args:
        shape: of the model.
        weights: in float32.
        device: where it runs.
        linears: products by name, "3.qkv"; their inputs and outputs are of `dtype`.
        dtype: of everything else.
    """

    together = 1

    def __init__(
        self,
        shape: EncoderShape,
        weights: Weights,
        device: torch.device,
        linears: dict[str, Linear],
        dtype: torch.dtype,
    ) -> None:
        self._shape, self._device, self._linears = shape, device, linears
        others = {name: tensor for name, tensor in weights.items() if name.removesuffix(".bias") not in linears}
        self._w = {name: tensor.to(device, dtype) for name, tensor in others.items()}
        by = type(linears[shape.products[0]]).__name__  # whose products: a vector's bits depend on it
        self.precision = f"torch-{by}-{str(dtype).removeprefix('torch.')}-{shape.pooling}"

    @torch.inference_mode()
    def __call__(self, inputs: list[list[int]]) -> np.ndarray:
        """See `Forward`."""
        return self.rows(inputs).float().cpu().numpy()

    def rows(self, inputs: list[list[int]], seen: Callable[[str, torch.Tensor], None] | None = None) -> torch.Tensor:
        """Vectors [inputs, hidden]; `seen` is told the input of every product."""
        shape, w = self._shape, self._w
        lengths = [len(tokens) for tokens in inputs]
        ids = torch.tensor([token for tokens in inputs for token in tokens], device=self._device)
        positions = torch.cat([torch.arange(n) for n in lengths]).to(self._device)

        def norm(x: torch.Tensor, name: str) -> torch.Tensor:
            return F.layer_norm(x, (shape.hidden,), w[name], w[f"{name}.bias"], shape.eps)

        def product(name: str, x: torch.Tensor) -> torch.Tensor:
            if seen is not None:
                seen(name, x)
            return self._linears[name](x)

        x = norm(F.embedding(ids, w["words"]) + w["places"][positions], "norm")
        for i in range(shape.layers):
            attended = self._attend(product(f"{i}.qkv", x), lengths)
            x = norm(x + product(f"{i}.output", attended), f"{i}.attention_norm")
            x = norm(x + product(f"{i}.outer", F.gelu(product(f"{i}.inner", x))), f"{i}.outer_norm")
        pooled = [text[0] if shape.pool_first else text.float().mean(0) for text in x.split(lengths)]
        return F.normalize(torch.stack(pooled), dim=-1)

    def _attend(self, qkv: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        """Attention within each text, texts of one length together."""
        out = qkv.new_empty(qkv.shape[0], qkv.shape[1] // 3)
        at = 0
        for length, texts in itertools.groupby(lengths):
            count = len(list(texts))
            rows = slice(at, at + count * length)
            q, k, v = qkv[rows].view(count, length, 3, self._shape.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
            out[rows] = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(count * length, -1)
            at += count * length
        return out


def smoothing(folder: Path, shape: EncoderShape, weights: Weights) -> Weights:
    """Factors by which the inputs of `SMOOTHED` products are divided, by name (SmoothQuant, Xiao et al. 2022).

    The peaks of the inputs are measured on a short text, in float64 so that they do not depend on the machine.
    """
    tokenizer = load_tokenizer(folder)
    texts: list[list[int]] = []
    for paragraph in TEXT.read_text().split("\n\n"):
        room = min(CALIBRATION_TOKENS - sum(map(len, texts)), shape.positions)
        if room > 2:
            texts.append(tokenizer.encode(paragraph).ids[:room])
    plain: dict[str, Linear] = {
        name: DenseLinear(weights[name].double(), weights[f"{name}.bias"].double()) for name in shape.products
    }
    peaks: Weights = {}

    def seen(name: str, x: torch.Tensor) -> None:
        peaks[name] = x.abs().amax(0)

    with torch.inference_mode():
        TorchForward(shape, weights, torch.device("cpu"), plain, torch.float64).rows(texts, seen)
        out = {}
        for name in shape.products:
            if name.split(".")[1] in SMOOTHED:
                largest = weights[name].double().abs().amax(0)
                factor = smoothing_factor(peaks[name], largest, ALPHA)
                out[name] = factor.to(torch.bfloat16).float()  # rounded: not a bit of it may depend on the machine
        return out


class KernelForward:
    """The encoder in C++, a text per thread at a time.

    Args:
        folder: Hugging Face folder.
        shape: of the model.
        weights: in float32.
        kernels: the C++ library, with the instructions it needs.
        bits: 8 or 16, of the products.
    """

    def __init__(
        self, folder: Path, shape: EncoderShape, weights: Weights, kernels: ctypes.CDLL, *, bits: int
    ) -> None:
        self._kernels, self._hidden = kernels, shape.hidden
        factors = smoothing(folder, shape, weights) if bits == 8 else {}
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
        self.precision = f"kernel-{bits}-{shape.pooling}-1"

    @staticmethod
    def supports(shape: EncoderShape, kernels: ctypes.CDLL | None) -> bool:
        """Whether the kernels have the instructions, and the sizes are whole panels."""
        sizes = (shape.hidden, shape.intermediate, shape.hidden // shape.heads)
        return KernelLinear.usable(kernels) and all(size % PANEL == 0 for size in sizes)

    def __call__(self, inputs: list[list[int]]) -> np.ndarray:
        """See `Forward`."""
        starts = np.fromiter(itertools.accumulate(map(len, inputs), initial=0), dtype=np.int32)
        ids = np.fromiter(itertools.chain.from_iterable(inputs), dtype=np.int32, count=int(starts[-1]))
        out = np.empty((len(inputs), self._hidden), dtype=np.float32)
        self._kernels.tenfold_encode(self._model, ids.ctypes.data, starts.ctypes.data, len(inputs), out.ctypes.data)
        return out


class Encoder:
    """Weights and forward pass of a BERT encoder.

    Args:
        folder: Hugging Face folder.
        device: where it runs.
        kernels: the C++ library, or None for torch's products.
        quantize: hold products in 8 bits, where the kernels can.
    """

    def __init__(
        self, folder: Path, device: torch.device, kernels: ctypes.CDLL | None = None, *, quantize: bool = True
    ) -> None:
        self.shape = shape = read_encoder_shape(folder)
        weights = read_weights(folder, shape)
        self.dimension, self.max_tokens, self.vocab = shape.hidden, shape.positions, shape.vocab
        self._forward: Forward
        if kernels is not None and device.type == "cpu" and KernelForward.supports(shape, kernels):
            self._forward = KernelForward(folder, shape, weights, kernels, bits=8 if quantize else 16)
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
