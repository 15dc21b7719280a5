"""What smooths the inputs of the encoder's products before they are held in 8 bits; computed once per model."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from backend.engine.embedding.portable import TorchForward
from backend.engine.embedding.weights import EncoderShape, Weights
from backend.engine.quantization.calibration import TEXT
from backend.engine.quantization.linear import DenseLinear, Linear
from backend.engine.remembered import recall, remember
from backend.models.checkpoint import fingerprint, load_tokenizer

SMOOTHED = ("qkv", "inner")
"""Products whose inputs are smoothed before they are quantized: both come from a norm, with outliers in few channels.
With it the mean cosine to float32 is 0.9991 and without 0.997, all products in 8 bits; for the other two it does harm.
"""
ALPHA = 0.7
CALIBRATION_TOKENS = 512


def smoothing_factor(peak: torch.Tensor, largest: torch.Tensor, alpha: float) -> torch.Tensor:
    """What each input channel is divided by (Xiao et al. 2022, equation 4).

    Args:
        peak: largest magnitude of the activations, [channels].
        largest: of the weights that they meet, [channels].
        alpha: how much of the difficulty goes to the weights, 0 to 1.
    """
    return peak.clamp(min=1e-5) ** alpha / largest.clamp(min=1e-5) ** (1 - alpha)


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


def kept_smoothing(folder: Path, shape: EncoderShape, weights: Weights, cache_dir: Path | None) -> Weights:
    """See `smoothing`, which takes longer than the rest of the encoder's start: what it gave before, where it is kept.

    Args:
        folder: of the model.
        shape: of the model.
        weights: in float32.
        cache_dir: where it is kept; None keeps nothing.
    """
    if cache_dir is None:
        return smoothing(folder, shape, weights)
    file = cache_dir / "quantized" / f"{fingerprint(folder, cache_dir)}-smoothing-{_basis(folder)}.json"
    names = [name for name in shape.products if name.split(".")[1] in SMOOTHED]
    try:
        held = recall(file)
        known = {name: torch.tensor(held[name], dtype=torch.float32) for name in names}
        if all(factor.shape == (shape.hidden,) for factor in known.values()):
            return known
    except (TypeError, KeyError, ValueError):
        pass  # nothing is kept, or not what was written here
    out = smoothing(folder, shape, weights)
    remember(file, {name: factor.tolist() for name, factor in out.items()})
    return out


def _basis(folder: Path) -> str:
    """What the factors depend on beside the model's weights."""
    parts = ((folder / "tokenizer.json").read_bytes(), TEXT.read_bytes(), repr((SMOOTHED, ALPHA, CALIBRATION_TOKENS)))
    digests = (hashlib.sha256(part if isinstance(part, bytes) else part.encode()).digest() for part in parts)
    return hashlib.sha256(b"".join(digests)).hexdigest()[:16]
