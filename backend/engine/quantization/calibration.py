"""A text on its way through a decoder, layer by layer: no more than one need be held in full precision."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from backend.engine.attention.base import one_sequence
from backend.engine.config import blocks_for
from backend.engine.model.layer import Layer
from backend.engine.quantization.linear import Linear
from backend.engine.quantization.smooth import Peaks

if TYPE_CHECKING:
    from backend.engine.model.decoder import Decoder


class Walk:
    """The residual stream of one text between two layers.

    Args:
        decoder: whose embedding, norms and attention are used; it needs no layers yet.
        token_ids: of the text.
        last: rows whose logits `logits` gives.
    """

    def __init__(self, decoder: Decoder, token_ids: list[int], last: list[int]) -> None:
        self._decoder = decoder
        self._batch = one_sequence(token_ids, last)
        self._attention = decoder.make_attention()
        self._attention.allocate(blocks_for(len(token_ids)))
        self._attention.prepare(self._batch)
        self._residual = decoder.embed(self._batch)
        self._delta: torch.Tensor | None = None

    @torch.inference_mode()
    def step(self, i: int, layer: Layer) -> None:
        """Go through layer `i`."""
        self._delta = self._decoder.run_layer(i, layer, self._residual, self._delta, self._batch, self._attention)

    def peaks(self, i: int, layer: Layer) -> Peaks:
        """Go through layer `i` and return the largest magnitude of every input channel of its products."""
        peaks: Peaks = {}

        def watched(name: str, linear: Linear) -> Linear:
            def call(x: torch.Tensor) -> torch.Tensor:
                peaks[name] = x.float().abs().amax(dim=0)
                return linear(x)

            return call

        products = {name: watched(name, linear) for name, linear in layer.linears().items()}
        self.step(i, replace(layer, **products))  # type: ignore[arg-type]
        return peaks

    @torch.inference_mode()
    def logits(self, first: int, layers: list[Layer]) -> torch.Tensor:
        """Logits after going on from layer `first` to the end; the walk itself stays where it is."""
        residual, delta = self._residual.clone(), self._delta
        for i in range(first, len(layers)):
            delta = self._decoder.run_layer(i, layers[i], residual, delta, self._batch, self._attention)
        return self._decoder.logits(residual, delta, self._batch)
