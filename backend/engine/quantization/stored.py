"""Quantized weights on disk, by fingerprint: smoothing, calibrating and packing are done once per model and machine.

Also which layers `mixed` keeps in 16 bits. Everything here can be deleted, and is made again.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from backend.engine.memory import Arena
from backend.engine.model.one_call import LINEARS, Layer
from backend.engine.quantization.linear import PANEL, KernelLinear

log = logging.getLogger(__name__)

FORMAT = f"2-{PANEL}"
NORMS = ("input_norm", "query_norm", "key_norm", "post_norm")


def layers_file(cache_dir: Path, fingerprint: str, variant: str) -> Path:
    """Where a variant's layers are kept."""
    return cache_dir / "quantized" / f"{fingerprint}-{variant}-{FORMAT}.safetensors"


def save_layers(file: Path, layers: list[Layer]) -> None:
    """Keep layers whose products are all `KernelLinear`."""
    held: dict[str, torch.Tensor] = {}
    for i, layer in enumerate(layers):
        for name in NORMS:
            norm = getattr(layer, name)
            if norm is not None:
                held[f"{i}.{name}"] = norm.clone()
        for name in LINEARS:
            for part, tensor in getattr(layer, name).packed().items():
                held[f"{i}.{name}.{part}"] = tensor.clone()  # out of the arena they share
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as aside:  # a kill must not leave half a file behind
        save_file(held, Path(aside) / file.name)
        os.replace(Path(aside) / file.name, file)


def load_layers(file: Path, count: int, kernels: ctypes.CDLL) -> list[Layer] | None:
    """Layers kept before; None where there are none, or what is there cannot be read."""
    if not file.is_file():
        return None
    arena = Arena()
    try:
        with safe_open(file, framework="pt") as opened:
            names = set(opened.keys())

            def norm(name: str) -> torch.Tensor | None:
                return opened.get_tensor(name) if name in names else None

            def linear(name: str) -> KernelLinear:
                parts = [part for part in ("packed", "shape", "scales", "sums", "bias") if f"{name}.{part}" in names]
                return KernelLinear.unpack({p: opened.get_tensor(f"{name}.{p}") for p in parts}, kernels, arena)

            return [
                Layer(
                    input_norm=opened.get_tensor(f"{i}.input_norm"),
                    qkv=linear(f"{i}.qkv"),
                    query_norm=norm(f"{i}.query_norm"),
                    key_norm=norm(f"{i}.key_norm"),
                    output=linear(f"{i}.output"),
                    post_norm=opened.get_tensor(f"{i}.post_norm"),
                    gate_up=linear(f"{i}.gate_up"),
                    down=linear(f"{i}.down"),
                )
                for i in range(count)
            ]
    except (SafetensorError, KeyError, OSError, ValueError) as error:
        log.warning("%s cannot be read and is made again: %s", file.name, error)
        file.unlink(missing_ok=True)
        return None


def sensitive_file(cache_dir: Path, fingerprint: str) -> Path:
    """Where the layers are listed that suffer most from 8 bits."""
    return cache_dir / "quantized" / f"{fingerprint}-sensitivity-1.json"


def load_sensitivity(file: Path) -> dict[str, float] | None:
    """What each layer's 8 bits cost, by name; None where it has not been measured."""
    try:
        return {str(name): float(value) for name, value in json.loads(file.read_text()).items()}
    except (OSError, ValueError, AttributeError):
        return None


def save_sensitivity(file: Path, costs: dict[str, float]) -> None:
    """Keep a measurement."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(".part")
    aside.write_text(json.dumps(costs, indent=1))
    os.replace(aside, file)
