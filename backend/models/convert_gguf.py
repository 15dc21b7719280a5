"""Writes a GGUF file as a bf16 Hugging Face folder: `python -m backend.models.convert_gguf FILE FOLDER`."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import gguf
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer


def convert(file: Path, folder: Path) -> None:
    """Read weights and tokenizer through transformers and save both to `folder`."""
    loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    settings = loaded.config.to_dict()
    settings.pop("quantization_config", None)  # the weights are plain now; save_pretrained refuses them otherwise
    plain = type(loaded)(AutoConfig.for_model(**settings))
    plain.load_state_dict(loaded.state_dict())
    plain.tie_weights()
    plain.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)


if __name__ == "__main__":
    # transformers parses the file anew for configuration, weights and tokenizer, and makes the table of names for each
    # tensor: two thirds of the time. This process does nothing else.
    for name in ("GGUFReader", "get_tensor_name_map"):
        setattr(gguf, name, functools.cache(getattr(gguf, name)))
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
