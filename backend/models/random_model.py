"""A model of a known shape with random weights, for measuring speed where the real one is not at hand.

`python -m backend.models.random_model llama-3.1-8b FOLDER` writes a Hugging Face folder without a tokenizer.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {  # of SmolLM2's vocabulary, so that its tokenizer fits; for tests
        "vocab_size": 49152, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    },
    "smollm2-135m": {
        "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    "llama-3.1-8b": {
        "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
    },
}  # fmt: skip


def write(shape: str, folder: Path) -> Path:
    """Write `folder` unless it is there; weights are bf16 and drawn as transformers initializes them."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    if not (folder / "config.json").is_file():
        torch.manual_seed(0)
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            model = LlamaForCausalLM(LlamaConfig(**SHAPES[shape], bos_token_id=None, eos_token_id=None))
        finally:
            torch.set_default_dtype(default)
        model.save_pretrained(folder)
    return folder


def main() -> None:
    """Parse arguments and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    print(write(arguments.shape, arguments.folder))


if __name__ == "__main__":
    main()
