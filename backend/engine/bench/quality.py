"""What a switch that is not exact does to the answers: `python -m backend.engine.bench.quality --text FILE …`.

Precisions, against fp32 on the same weights: perplexity of a text, and how often the likeliest next token is the same
along fp32's own greedy answers. `--long N`: sparse reading and 8-bit pages behind N contexts of 4,000 tokens of the
text, against reading everything in the model's precision. One JSON line each.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from backend import packaged
from backend.engine.attention.base import Reading, whole_sequence
from backend.engine.config import BLOCK_SIZE
from backend.engine.kernels.build import KernelsUnavailableError, load_cpu_kernels
from backend.engine.model.decoder import Decoder
from backend.models.checkpoint import load_tokenizer, resolve

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
    out: list[int] = []
    for token in likeliest(decoder, prompt, out):
        out.append(token)
        if len(out) == tokens or token in decoder.shape.eos_ids:
            break
    return out


def likeliest(
    decoder: Decoder, prompt: list[int], answer: list[int], reading: Reading | None = None, *, int8: bool = False
) -> Iterator[int]:
    """The likeliest token after the prompt, then after each further token of `answer`, decoded one by one.

    `answer` may grow meanwhile. `reading` says how a decode step reads; the prompt is read whole.
    """
    attention = decoder.make_attention(int8=int8)
    blocks = -(-(len(prompt) + 512) // BLOCK_SIZE)
    attention.allocate(blocks)
    logits = decoder.forward(whole_sequence(prompt, blocks, torch.tensor([len(prompt) - 1])), attention)
    attention.reading = reading or attention.reading
    count = 0
    while True:
        yield int(logits.argmax())
        count += 1
        if count > len(answer):
            return
        at = len(prompt) + count - 1
        batch = whole_sequence([answer[count - 1]], blocks, torch.tensor([0]))
        batch.positions = batch.slots = torch.tensor([at])
        batch.context_lens, batch.max_context = torch.tensor([at + 1], dtype=torch.int32), at + 1
        logits = decoder.forward(batch, attention)


def long_contexts(decoder: Decoder, text: list[int], count: int, context: int = 4000, tokens: int = 64) -> None:
    """Print how often sparse reading and 8-bit pages give the same next token as reading everything."""
    states: dict[str, tuple[Reading, bool]] = {
        **{f"sparse {percent} %": (Reading(keep_percent=percent), False) for percent in (50, 25, 12)},
        "8-bit pages": (Reading(), True),
    }
    same = dict.fromkeys(states, 0)
    for i in range(count):
        prompt = text[i * (len(text) - context) // max(count - 1, 1) :][:context]
        answer: list[int] = []
        for token in likeliest(decoder, prompt, answer):
            answer.append(token)
            if len(answer) == tokens:
                break
        for name, (reading, int8) in states.items():
            again = likeliest(decoder, prompt, answer[:-1], reading, int8=int8)
            same[name] += sum(a == b for a, b in zip(again, answer, strict=True))
    for name, value in same.items():
        row = {"reading": name, "variant": decoder.variant, "context": context, "tokens": count * tokens}
        print(json.dumps({**row, "same_token": round(value / (count * tokens), 4)}), flush=True)


def main() -> None:
    """Parse arguments and print one JSON line per variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="plain text for the perplexity")
    parser.add_argument("--questions", type=Path, help="one question a line")
    parser.add_argument("--long", type=int, default=0, help="contexts of 4,000 tokens to decode behind")
    parser.add_argument("--variants", nargs="+", default=["bf16", "int8"])
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of the text to read")
    parser.add_argument("--count", type=int, default=50, help="questions to answer")
    parser.add_argument("--answer-tokens", type=int, default=48)
    parser.add_argument("--model", default=packaged.CHAT_MODEL)
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
    tokenizer = load_tokenizer(folder)
    text: list[int] = tokenizer.encode(a.text.read_text(), add_special_tokens=False).ids[: a.tokens]
    if a.long:
        everything: list[int] = tokenizer.encode(a.text.read_text(), add_special_tokens=False).ids
        decoder = Decoder(folder, a.variants[0], device, kernels, cache_dir=a.cache_dir)
        long_contexts(decoder, everything, a.long)
        return
    if a.questions is None:
        parser.error("--questions is needed to compare answers")
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
