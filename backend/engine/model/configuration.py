"""What transformers makes of a model's `config.json`, defaults and all, remembered.

To import it takes longer than all else in an engine's start but torch, so what it made of a file is kept: that depends
on the file's bytes and on its own version.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

from backend.engine.remembered import recall, remember

NAMES = (
    "attention_bias", "eos_token_id", "head_dim", "hidden_act", "hidden_size", "intermediate_size",
    "max_position_embeddings", "no_rope_layers", "num_attention_heads", "num_hidden_layers", "num_key_value_heads",
    "rms_norm_eps", "rope_parameters", "sliding_window", "tie_word_embeddings", "use_sliding_window", "vocab_size",
)  # fmt: skip


def as_transformers(folder: Path) -> Any:
    """The configuration as transformers' own object.

    Raises:
        Exception: whatever its checks raise.
    """
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder)


def read_configuration(folder: Path, cache_dir: Path | None) -> dict[str, Any]:
    """Everything of `NAMES`, None where the architecture has no such thing.

    Args:
        folder: Hugging Face folder.
        cache_dir: where it is remembered; None asks transformers each time.

    Raises:
        Exception: whatever transformers' checks raise. What they refuse is not remembered.
    """
    file = None if cache_dir is None else cache_dir / "configurations" / f"{_key(folder)}.json"
    known = recall(file) if file is not None else None
    if isinstance(known, dict) and known.keys() == set(NAMES):
        return known
    config = as_transformers(folder)
    read = {name: getattr(config, name, None) for name in NAMES}
    if file is not None:
        remember(file, read)
    return read


def _key(folder: Path) -> str:
    known_by = " ".join((version("transformers"), *NAMES)).encode()
    return hashlib.sha256(known_by + b"\0" + (folder / "config.json").read_bytes()).hexdigest()[:32]
