"""What a precision does to the answers: `python -m backend.engine.quality --text FILE --variants bf16 int8`.

Against fp32 on the same weights: perplexity of a text, and how often the likeliest next token is the same along
fp32's own greedy answers. One JSON line per variant.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path

import torch
from tokenizers import Tokenizer

from backend.engine.attention import whole_sequence
from backend.engine.config import BLOCK_SIZE
from backend.engine.decoder import Decoder
from backend.engine.kernels import KernelsUnavailableError, load_cpu_kernels
from backend.models.checkpoint import PACKAGED_CHAT_MODEL, resolve

WINDOW = 512


def logits_of(decoder: Decoder, ids: list[int]) -> torch.Tensor:
    """Float32 logits [tokens, vocab] of a sequence read in one piece."""
    attention = decoder.make_attention()
    blocks, count = -(-len(ids) // BLOCK_SIZE), len(ids)
    attention.allocate(blocks)
    return decoder.forward(whole_sequence(ids, blocks, torch.arange(count)), attention)


def perplexity(decoder: Decoder, ids: list[int]) -> float:
    """Perplexity of a text in windows of 512 tokens."""
    total, count = 0.0, 0
    for start in range(0, len(ids) - 1, WINDOW):
        window = ids[start : start + WINDOW + 1]
        if len(window) < 2:
            break
        scores = torch.log_softmax(logits_of(decoder, window[:-1]), dim=-1)
        total -= float(scores.gather(1, torch.tensor(window[1:]).unsqueeze(1)).sum())
        count += len(window) - 1
    return math.exp(total / count)


def greedy(decoder: Decoder, prompt: list[int], tokens: int) -> list[int]:
    """Greedy continuation, stopped at the end token."""
    attention = decoder.make_attention()
    blocks = -(-(len(prompt) + tokens) // BLOCK_SIZE)
    attention.allocate(blocks)
    out: list[int] = []
    logits = decoder.forward(whole_sequence(prompt, blocks, torch.tensor([len(prompt) - 1])), attention)
    while True:
        out.append(int(logits.argmax()))
        if len(out) == tokens or out[-1] in decoder.shape.eos_ids:
            return out
        at = len(prompt) + len(out) - 1
        batch = whole_sequence([out[-1]], blocks, torch.tensor([0]))
        batch.positions = batch.slots = torch.tensor([at])
        batch.context_lens, batch.max_context = torch.tensor([at + 1], dtype=torch.int32), at + 1
        logits = decoder.forward(batch, attention)


def main() -> None:
    """Parse arguments and print one JSON line per variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="plain text for the perplexity")
    parser.add_argument("--questions", type=Path, required=True, help="one question a line")
    parser.add_argument("--variants", nargs="+", default=["bf16", "int8"])
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of the text to read")
    parser.add_argument("--count", type=int, default=50, help="questions to answer")
    parser.add_argument("--answer-tokens", type=int, default=48)
    parser.add_argument("--model", default=PACKAGED_CHAT_MODEL)
    parser.add_argument(
        "--cache-dir", type=Path, default=Path(os.environ.get("TENFOLD_DATA_DIR", "data/var")) / "cache"
    )
    a = parser.parse_args()
    folder = resolve(a.model, a.cache_dir)
    device = torch.device("cpu")
    try:
        kernels = load_cpu_kernels(a.cache_dir)
    except KernelsUnavailableError:
        kernels = None
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text: list[int] = tokenizer.encode(a.text.read_text(), add_special_tokens=False).ids[: a.tokens]
    questions = [line for line in a.questions.read_text().splitlines() if line.strip()][: a.count]
    prompts = [tokenizer.encode(f"Question: {q}\nAnswer:").ids for q in questions]
    oracle = Decoder(folder, "fp32", device, kernels)
    reference = perplexity(oracle, text)
    answers = [greedy(oracle, prompt, a.answer_tokens) for prompt in prompts]
    print(json.dumps({"variant": "fp32", "perplexity": round(reference, 3)}), flush=True)
    del oracle
    for variant in a.variants:
        decoder = Decoder(folder, variant, device, kernels, cache_dir=a.cache_dir)
        value = perplexity(decoder, text)
        same = total = 0
        for prompt, answer in zip(prompts, answers, strict=True):
            likeliest = logits_of(decoder, [*prompt, *answer[:-1]])[len(prompt) - 1 :].argmax(dim=-1).tolist()
            same += sum(x == y for x, y in zip(likeliest, answer, strict=True))
            total += len(answer)
        print(
            json.dumps(
                {
                    "variant": variant,
                    "perplexity": round(value, 3),
                    "perplexity_change": round(value / reference - 1, 5),
                    "greedy_agreement": round(same / total, 4),
                    "tokens_compared": total,
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
