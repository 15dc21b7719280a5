"""SmoothQuant (Xiao et al. 2022): moves the outliers of activations into the weights, exactly, before quantizing.

Each input channel of a layer is divided by a factor that the layer before it takes up: the norm before qkv and
gate + up, the value rows before the output projection, the up rows before the down projection.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer

from backend.engine.weights import ModelShape

ALPHA = 0.5
CALIBRATION_TOKENS = 1024
TEXT = Path(__file__).with_name("calibration.txt")

Peaks = dict[str, torch.Tensor]
"""Largest magnitude of every input channel, by the layer's name: "3.qkv", "3.output", "3.gate_up", "3.down"."""


def calibration_ids(folder: Path) -> list[int]:
    """Token ids of the calibration text."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids: list[int] = tokenizer.encode(TEXT.read_text(), add_special_tokens=False).ids
    return ids[:CALIBRATION_TOKENS]


def smooth(weights: dict[str, torch.Tensor], shape: ModelShape, peaks: Peaks) -> dict[str, torch.Tensor]:
    """Return the weights (float32 where changed) with every layer's factors folded in."""
    out = dict(weights)

    def factor(peak: torch.Tensor, *names: str) -> torch.Tensor:
        largest = torch.stack([out[name].float().abs().amax(dim=0) for name in names]).amax(dim=0)
        return (peak.clamp(min=1e-5) ** ALPHA / largest.clamp(min=1e-5) ** (1 - ALPHA)).clamp(min=1e-4)

    def scale_inputs(by: torch.Tensor, *names: str) -> None:
        for name in names:
            out[name] = out[name].float() * by

    def divide_rows(by: torch.Tensor, name: str) -> None:
        out[f"{name}.weight"] = out[f"{name}.weight"].float() / by.unsqueeze(1)
        if f"{name}.bias" in out:
            out[f"{name}.bias"] = out[f"{name}.bias"].float() / by

    group = shape.heads // shape.kv_heads
    for i in range(shape.layers):
        at = f"model.layers.{i}"
        for norm, name, parts in (
            ("input_layernorm", "qkv", [f"{at}.self_attn.{x}_proj.weight" for x in "qkv"]),
            ("post_attention_layernorm", "gate_up", [f"{at}.mlp.gate_proj.weight", f"{at}.mlp.up_proj.weight"]),
        ):
            s = factor(peaks[f"{i}.{name}"], *parts)
            out[f"{at}.{norm}.weight"] = out[f"{at}.{norm}.weight"].float() / s
            scale_inputs(s, *parts)
        # Heads of a group read the same value rows, so they share their factors.
        output = f"{at}.self_attn.o_proj.weight"
        s = factor(peaks[f"{i}.output"], output).view(shape.kv_heads, group, shape.head_size).amax(dim=1)
        divide_rows(s.flatten(), f"{at}.self_attn.v_proj")
        scale_inputs(s.unsqueeze(1).expand(-1, group, -1).flatten(), output)
        down = f"{at}.mlp.down_proj.weight"
        s = factor(peaks[f"{i}.down"], down)
        divide_rows(s, f"{at}.mlp.up_proj")
        scale_inputs(s, down)
    return out
