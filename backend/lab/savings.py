"""Whether a cached prompt's booked saving is what reading it takes: `python -m backend.lab savings`.

The same made-up prompts twice each, first unknown and then in the prefix cache, alone and 16 at once, at several
lengths. Booked is what the ledger says was avoided; measured is what the reading that was not done the second time cost
the first. Prints JSON lines. Run it alone.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from pathlib import Path

from backend.engine.messages import SamplingParams
from backend.generation.request import TextRequest
from backend.lab.product import Open, Product
from backend.metering.entry import Entry

TOGETHER = 16


def ask(product: Product, prompts: list[list[int]], written: int) -> list[Entry]:
    """The entries of prompts that are sent at once."""
    started = []
    for prompt in prompts:
        request = TextRequest(
            token_ids=prompt, max_tokens=written, source="lab", fresh=True, sampling=SamplingParams(ignore_eos=True)
        )
        started.append(product.generations.start(product.generations.prepare(request)))
    for generation in started:
        generation.wait(600)
    product.ledger.flush()
    found = [product.ledger.queries.request(generation.id) for generation in started]
    return [request.entry for request in found if request is not None]


def compare(product: Product, length: int, together: int, rng: random.Random, written: int) -> tuple[int, int]:
    """Nano-dollars (booked, measured) of prompts that were read once and found the second time."""
    vocab = product.engine.known().vocab
    prompts = [[rng.randrange(vocab // 2) for _ in range(length)] for _ in range(together)]
    first, again = ask(product, prompts, written), ask(product, prompts, written)
    booked = sum(entry.avoided_prefix for entry in again)
    read, rest = sum(entry.prefill_ns for entry in first), sum(entry.prefill_ns for entry in again)
    paid = sum(entry.cost for entry in first) / sum(entry.compute_ns for entry in first)
    return booked, round((read - rest) * paid)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument("--lengths", type=int, nargs="+", default=[200, 600, 1500])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--written", type=int, default=16, help="tokens that each answer has")


def run(arguments: argparse.Namespace, opened: Open) -> None:
    """Print a line for each length and number of prompts at once."""
    with tempfile.TemporaryDirectory() as folder, opened(data_dir=Path(folder), price_per_hour=1.0) as product:
        product.switchboard.change({"answer_cache": False, "disk_prefix_cache": False})
        rng = random.Random(0)
        for length in arguments.lengths:
            compare(product, length, 1, rng, arguments.written)  # the rates are learned
        for together in (1, TOGETHER):
            for length in arguments.lengths:
                pairs = [compare(product, length, together, rng, arguments.written) for _ in range(arguments.repeats)]
                ratios = [booked / measured for booked, measured in pairs if measured > 0]
                row = {
                    "workload": "savings", "prompt_tokens": length, "at_once": together,
                    "booked_to_measured": round(sum(b for b, _ in pairs) / sum(m for _, m in pairs), 3),
                    "each": [round(ratio, 3) for ratio in ratios], "median": round(statistics.median(ratios), 3),
                }
                print(json.dumps(row), flush=True)
