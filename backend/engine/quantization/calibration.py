"""A text on its way through a decoder, layer by layer: no more than one need be held in full precision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from backend.engine.attention.base import one_sequence
from backend.engine.config import blocks_for
from backend.engine.model.layer import Layer
from backend.models.checkpoint import load_tokenizer

if TYPE_CHECKING:
    from backend.engine.model.decoder import Decoder

TEXT = Path(__file__).with_name("calibration.txt")


def calibration_ids(folder: Path, most: int) -> list[int]:
    """The first `most` token ids of the calibration text."""
    ids: list[int] = load_tokenizer(folder).encode(TEXT.read_text(), add_special_tokens=False).ids
    return ids[:most]


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

    @torch.inference_mode()
    def logits(self, first: int, layers: list[Layer]) -> torch.Tensor:
        """Logits after going on from layer `first` to the end; the walk itself stays where it is."""
        residual, delta = self._residual.clone(), self._delta
        for i in range(first, len(layers)):
            delta = self._decoder.run_layer(i, layers[i], residual, delta, self._batch, self._attention)
        return self._decoder.logits(residual, delta, self._batch)
