"""SmoothQuant (Xiao et al. 2022): moves the outliers of activations into the weights, exactly, before quantizing.

Each input channel of a layer is divided by a factor that the layer before it takes up: the norm before qkv and
gate + up, the value rows before the output projection, the up rows before the down projection.
"""

from __future__ import annotations

from pathlib import Path

import torch

from backend.engine.model.weights import ModelShape
from backend.models.checkpoint import load_tokenizer

ALPHA = 0.5
CALIBRATION_TOKENS = 1024
TEXT = Path(__file__).with_name("calibration.txt")

Weights = dict[str, torch.Tensor]
"""By their names in the checkpoint."""

Peaks = dict[str, torch.Tensor]
"""Largest magnitude of every input channel of a layer's products, by their names in `LINEARS`."""


def calibration_ids(folder: Path) -> list[int]:
    """Token ids of the calibration text."""
    ids: list[int] = load_tokenizer(folder).encode(TEXT.read_text(), add_special_tokens=False).ids
    return ids[:CALIBRATION_TOKENS]


def smoothing_factor(peak: torch.Tensor, largest: torch.Tensor, alpha: float) -> torch.Tensor:
    """What each input channel is divided by (Xiao et al. 2022, equation 4).

    Args:
        peak: largest magnitude of the activations, [channels].
        largest: of the weights that they meet, [channels].
        alpha: how much of the difficulty goes to the weights, 0 to 1.
    """
    return peak.clamp(min=1e-5) ** alpha / largest.clamp(min=1e-5) ** (1 - alpha)


def smooth_layer(weights: Weights, i: int, shape: ModelShape, peaks: Peaks) -> Weights:
    """The weights of layer `i` alone, with its factors folded in; float32 where changed."""
    at = f"model.layers.{i}"
    out = {name: tensor for name, tensor in weights.items() if name.startswith(f"{at}.")}

    def factor(peak: torch.Tensor, *names: str) -> torch.Tensor:
        largest = torch.stack([out[name].float().abs().amax(dim=0) for name in names]).amax(dim=0)
        return smoothing_factor(peak, largest, ALPHA).clamp(min=1e-4)

    def scale_inputs(by: torch.Tensor, *names: str) -> None:
        for name in names:
            out[name] = out[name].float() * by

    def divide_rows(by: torch.Tensor, name: str) -> None:
        out[f"{name}.weight"] = out[f"{name}.weight"].float() / by.unsqueeze(1)
        if f"{name}.bias" in out:
            out[f"{name}.bias"] = out[f"{name}.bias"].float() / by

    group = shape.heads // shape.kv_heads
    for norm, name, parts in (
        ("input_layernorm", "qkv", [f"{at}.self_attn.{x}_proj.weight" for x in "qkv"]),
        ("post_attention_layernorm", "gate_up", [f"{at}.mlp.gate_proj.weight", f"{at}.mlp.up_proj.weight"]),
    ):
        s = factor(peaks[name], *parts)
        out[f"{at}.{norm}.weight"] = out[f"{at}.{norm}.weight"].float() / s
        scale_inputs(s, *parts)
    # Heads of a group read the same value rows, so they share their factors.
    output = f"{at}.self_attn.o_proj.weight"
    s = factor(peaks["output"], output).view(shape.kv_heads, group, shape.head_size).amax(dim=1)
    divide_rows(s.flatten(), f"{at}.self_attn.v_proj")
    scale_inputs(s.unsqueeze(1).expand(-1, group, -1).flatten(), output)
    down = f"{at}.mlp.down_proj.weight"
    s = factor(peaks["down"], down)
    divide_rows(s, f"{at}.mlp.up_proj")
    scale_inputs(s, down)
    return out
