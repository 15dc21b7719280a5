"""One decoder layer: its products with weights, its norms, and how it is made from a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from backend.engine.quantization.linear import Linear, LinearFactory

LINEARS = ("qkv", "output", "gate_up", "down")
"""A layer's products with weights, in the order in which they are computed; each a field of `Layer`."""
NORMS = ("input_norm", "query_norm", "key_norm", "post_norm")


@dataclass(slots=True)
class Layer:
    """Weights of one decoder layer."""

    input_norm: torch.Tensor
    qkv: Linear
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    output: Linear
    post_norm: torch.Tensor
    gate_up: Linear
    down: Linear

    def linears(self) -> dict[str, Linear]:
        """The products, by their names in `LINEARS`."""
        return {name: getattr(self, name) for name in LINEARS}


def make_layer(
    weights: dict[str, torch.Tensor], i: int, make_linear: LinearFactory, device: torch.device
) -> Layer:
    """Layer `i` of weights by their names in the checkpoint."""
    at = f"model.layers.{i}"

    def fused(name: str, *parts: str) -> Linear:
        biases = [weights.get(f"{part}.bias") for part in parts]
        present = [bias for bias in biases if bias is not None]
        bias = torch.cat(present) if len(present) == len(parts) else None
        return make_linear(torch.cat([weights[f"{part}.weight"] for part in parts]), bias, name=f"{i}.{name}")

    def norm(name: str) -> torch.Tensor:
        return weights[f"{at}.{name}.weight"].to(device, torch.float32)

    normed = f"{at}.self_attn.q_norm.weight" in weights
    return Layer(
        input_norm=norm("input_layernorm"),
        qkv=fused("qkv", *(f"{at}.self_attn.{x}_proj" for x in "qkv")),
        query_norm=norm("self_attn.q_norm") if normed else None,
        key_norm=norm("self_attn.k_norm") if normed else None,
        output=fused("output", f"{at}.self_attn.o_proj"),
        post_norm=norm("post_attention_layernorm"),
        gate_up=fused("gate_up", f"{at}.mlp.gate_proj", f"{at}.mlp.up_proj"),
        down=fused("down", f"{at}.mlp.down_proj"),
    )
