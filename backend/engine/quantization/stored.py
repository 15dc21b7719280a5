"""Quantized weights on disk, by fingerprint: rotating and packing are done once per model and machine.

Also which layers `mixed` keeps in 16 bits. Everything here can be deleted, and is made again.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from backend.engine.memory import Arena
from backend.engine.model.layer import LINEARS, NORMS, Layer
from backend.engine.quantization.kernel import PANEL, KernelLinear
from backend.engine.remembered import recall

log = logging.getLogger(__name__)

FORMAT = f"3-{PANEL}"


@contextlib.contextmanager
def _kept_if_possible(file: Path) -> Iterator[None]:
    """What was computed serves, also where no room is left to keep it."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        log.warning("%s could not be kept, and is made again at the next start: %s", file.name, error)


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
        for name, linear in layer.linears().items():
            assert isinstance(linear, KernelLinear)
            for part, tensor in linear.packed().items():
                held[f"{i}.{name}.{part}"] = tensor.clone()  # out of the arena they share
    with _kept_if_possible(file):
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

            layers = []
            for i in range(count):
                if not {f"{i}.input_norm", f"{i}.post_norm"} <= names:
                    raise KeyError(f"the norms of layer {i}")
                held = {name: norm(f"{i}.{name}") for name in NORMS}
                layers.append(Layer(**held, **{name: linear(f"{i}.{name}") for name in LINEARS}))  # type: ignore[arg-type]
            return layers
    except (SafetensorError, KeyError, OSError, ValueError) as error:
        log.warning("%s cannot be read and is made again: %s", file.name, error)
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
        return None


def sensitive_file(cache_dir: Path, fingerprint: str) -> Path:
    """Where the layers are listed that suffer most from 8 bits."""
    return cache_dir / "quantized" / f"{fingerprint}-sensitivity-2.json"


def load_sensitivity(file: Path) -> dict[str, float] | None:
    """What each layer's 8 bits cost, by name; None where it has not been measured."""
    try:
        return {str(name): float(value) for name, value in recall(file).items()}
    except (ValueError, TypeError, AttributeError):
        return None
