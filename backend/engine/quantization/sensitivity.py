"""Which layers suffer most from 8 bits: each is held so alone, and what the model predicts is compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from backend.engine.model.layer import LINEARS, make_layer
from backend.engine.model.weights import tensors
from backend.engine.quantization.calibration import Walk, calibration_ids
from backend.engine.quantization.factory import linear_factory

if TYPE_CHECKING:
    from backend.engine.model.decoder import Decoder

TOKENS = 384
EVERY = 4
"""Of the text's positions, each fourth one's prediction is compared."""


def measure_sensitivity(
    high: Decoder, folder: Path, pause: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """What holding one layer alone in 8 bits does to the model's predictions.

    Args:
        high: the model in 16 bits or more; beside it never more than one layer is held.
        folder: where its weights are.
        pause: called after every product; may wait.

    Returns:
        For every product ("3.down", say) the mean Kullback-Leibler divergence, in nats a token, of the calibration
        text's next-token distributions from those of `high`.
    """
    _, make_low = linear_factory("int8", high.device, high.kernels)
    weights = dict(tensors(folder))
    ids = calibration_ids(folder, min(TOKENS, high.max_positions))
    walk = Walk(high, ids, list(range(0, len(ids), EVERY)))
    reference = torch.log_softmax(walk.logits(0, high.layers), dim=-1)
    costs: dict[str, float] = {}
    for i, layer in enumerate(high.layers):
        quantized = make_layer(weights, i, make_low, high.device)
        for name in LINEARS:
            kept = getattr(layer, name)
            setattr(layer, name, getattr(quantized, name))
            changed = torch.log_softmax(walk.logits(i, high.layers), dim=-1)
            setattr(layer, name, kept)
            pause()
            costs[f"{i}.{name}"] = float((reference.exp() * (reference - changed)).sum(-1).mean())
        walk.step(i, layer)
    return costs
