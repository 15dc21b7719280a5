"""All layers of a decoder in one kernel call, instead of one from Python for every step of every layer."""

from __future__ import annotations

import ctypes

import torch

from backend.engine.attention.base import Batch
from backend.engine.attention.cpu import KernelAttention, KernelStep
from backend.engine.kernels.abi import NativeLayer, NativeModel
from backend.engine.memory import zeros
from backend.engine.model.layer import Layer
from backend.engine.model.weights import ModelShape
from backend.engine.quantization.kernel import KernelLinear


class WholeForward:
    """`Decoder.forward` between the embedding and the last norm, by `tenfold_forward`; the same results to the bit."""

    def __init__(
        self,
        shape: ModelShape,
        layers: list[Layer],
        cosine: torch.Tensor,
        sine: torch.Tensor,
        attention: KernelAttention,
        kernels: ctypes.CDLL,
    ) -> None:
        self.attention, self._kernels, self._hidden = attention, kernels, shape.hidden
        self._keep = layers, cosine, sine  # what the addresses below belong to
        self._layers = (NativeLayer * len(layers))()
        for i, (native, layer) in enumerate(zip(self._layers, layers, strict=True)):
            native.input_norm, native.post_norm = layer.input_norm.data_ptr(), layer.post_norm.data_ptr()
            if layer.query_norm is not None and layer.key_norm is not None:
                native.query_norm, native.key_norm = layer.query_norm.data_ptr(), layer.key_norm.data_ptr()
            for name, linear in layer.linears().items():
                assert isinstance(linear, KernelLinear)
                setattr(native, name, linear.native())
            native.rotate = int(i not in shape.unrotated_layers)
            native.pages = attention.page_pointer(i)
        self._model = NativeModel(
            self._layers, cosine.data_ptr(), sine.data_ptr(), len(layers), shape.hidden, shape.intermediate,
            shape.norm_eps,
        )  # fmt: skip
        self._scratch = torch.empty(0, dtype=attention.dtype)
        self._summaries: torch.Tensor | None = None

    @staticmethod
    def fits(layers: list[Layer]) -> bool:
        """Whether every product is the kernels' own."""
        return all(isinstance(linear, KernelLinear) for layer in layers for linear in layer.linears().values())

    def __call__(self, batch: Batch, residual: torch.Tensor) -> torch.Tensor:
        """Bring float32 `residual` [tokens, hidden] up to the last layer; returns what its down projection adds."""
        assert isinstance(batch.metadata, KernelStep)
        native = batch.metadata.native
        if self._summaries is not self.attention.summaries:
            self._summaries = self.attention.summaries
            for i, layer in enumerate(self._layers):
                layer.summaries = self.attention.summaries_pointer(i)
        tokens = residual.shape[0]
        needed = tokens * self._kernels.tenfold_scratch(self._model, native)
        if len(self._scratch) < needed:
            self._scratch = zeros(needed, self._scratch.dtype)
        delta = torch.empty(tokens, self._hidden, dtype=self._scratch.dtype)
        self._kernels.tenfold_forward(
            self.attention.is_bf16, self._model, native, residual.data_ptr(), delta.data_ptr(), self._scratch.data_ptr()
        )
        return delta
