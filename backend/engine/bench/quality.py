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
from backend.engine.attention.base import PageSelection, one_sequence
from backend.engine.config import blocks_for
from backend.engine.kernels.abi import KernelsUnavailableError
from backend.engine.kernels.build import load_cpu_kernels
from backend.engine.model.decoder import Decoder
from backend.models.checkpoint import load_tokenizer, resolve

WINDOW = 512
MOST_ANSWERED = 512
"""Tokens of an answer that its pages have room for."""


def logits_of(decoder: Decoder, ids: list[int]) -> torch.Tensor:
    """Float32 logits [tokens, vocab] of a sequence read in one piece."""
    attention = decoder.make_attention()
    attention.allocate(blocks_for(len(ids)))
    return decoder.forward(one_sequence(ids, list(range(len(ids)))), attention)


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
    decoder: Decoder, prompt: list[int], answer: list[int], selection: PageSelection | None = None, *,
    int8: bool = False,
) -> Iterator[int]:  # fmt: skip
    """The likeliest token after the prompt, then after each further token of `answer`, decoded one by one.

    `answer` may grow meanwhile. `selection` says what a decode step reads; the prompt is read whole.
    """
    attention = decoder.make_attention(int8=int8)
    attention.allocate(blocks_for(len(prompt) + MOST_ANSWERED))
    logits = decoder.forward(one_sequence(prompt, [len(prompt) - 1]), attention)
    attention.selection = selection or attention.selection
    count = 0
    while True:
        yield int(logits.argmax())
        count += 1
        if count > len(answer):
            return
        batch = one_sequence([answer[count - 1]], [0], start=len(prompt) + count - 1)
        logits = decoder.forward(batch, attention)


def long_contexts(decoder: Decoder, text: list[int], count: int, context: int = 4000, tokens: int = 64) -> None:
    """Print how often sparse reading and 8-bit pages give the same next token as reading everything."""
    states: dict[str, tuple[PageSelection, bool]] = {
        **{f"sparse {percent} %": (PageSelection(keep_percent=percent), False) for percent in (50, 25, 12)},
        "8-bit pages": (PageSelection(), True),
    }
    same = dict.fromkeys(states, 0)
    for i in range(count):
        prompt = text[i * (len(text) - context) // max(count - 1, 1) :][:context]
        answer: list[int] = []
        for token in likeliest(decoder, prompt, answer):
            answer.append(token)
            if len(answer) == tokens:
                break
        for name, (selection, int8) in states.items():
            again = likeliest(decoder, prompt, answer[:-1], selection, int8=int8)
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
            again = logits_of(decoder, [*prompt, *answer[:-1]])[len(prompt) - 1 :].argmax(dim=-1).tolist()
            same += sum(x == y for x, y in zip(again, answer, strict=True))
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
