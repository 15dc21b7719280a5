"""How often the semantic cache would be right: `python -m backend.lab.like_questions`.

Pairs of questions that a person wrote: some mean the same, some differ by a negation, a number, a name or one word.
Prints JSON: at each threshold the share of same pairs that would share an answer, and of different pairs that would
(false hits), by the embeddings alone and with what the cache checks besides.
"""

from __future__ import annotations

import json

import numpy as np
import torch
from tokenizers import Tokenizer

from backend.engine.embedding.encoder import Encoder
from backend.engine.kernels.abi import KernelsUnavailableError
from backend.engine.kernels.build import load_cpu_kernels
from backend.generation.likeness import alike
from backend.models.checkpoint import resolve
from backend.settings import ROOT, Settings

PAIRS = ROOT / "data" / "lab" / "like_questions.json"
THRESHOLDS = (0.90, 0.95, 0.97)


def main() -> None:
    """Print the figures."""
    settings = Settings()
    folder = resolve(settings.embedding_model, settings.cache_dir)
    try:
        kernels = load_cpu_kernels(settings.cache_dir)
    except KernelsUnavailableError:
        kernels = None
    encoder = Encoder(folder, torch.device("cpu"), kernels, quantize=settings.quantize_embeddings)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    pairs: dict[str, list[list[str]]] = json.loads(PAIRS.read_text())
    scores: dict[str, np.ndarray] = {}
    checks: dict[str, np.ndarray] = {}
    for kind, rows in pairs.items():
        ids = [encoding.ids for encoding in tokenizer.encode_batch([q for row in rows for q in row])]
        vectors = encoder.embed(ids)
        scores[kind] = (vectors[::2] * vectors[1::2]).sum(1)
        checks[kind] = np.array([alike(a, b) for a, b in rows])
    for threshold in THRESHOLDS:
        near = {kind: values >= threshold for kind, values in scores.items()}
        print(
            json.dumps(
                {
                    "threshold": threshold,
                    "hits_by_embedding": round(float(near["same"].mean()), 3),
                    "false_hits_by_embedding": round(float(near["different"].mean()), 3),
                    "hits": round(float((near["same"] & checks["same"]).mean()), 3),
                    "false_hits": round(float((near["different"] & checks["different"]).mean()), 3),
                    "pairs": {kind: len(rows) for kind, rows in pairs.items()},
                }
            )
        )


if __name__ == "__main__":
    main()
