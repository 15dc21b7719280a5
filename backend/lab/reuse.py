"""What never computing twice is worth: `python -m backend.lab reuse`.

Over a fresh data folder, with the real models and texts made up by a rule: a 200-page document uploaded twice, a
restart, and 20 documents re-processed five times with 200 questions, caches on and off. Prints JSON lines. Run it
alone.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from backend.engine.messages import SamplingParams
from backend.generation.grounded import grounded_request
from backend.knowledge.sight import SHARED
from backend.lab.made_up import PEOPLE, PLACES, THINGS, document
from backend.lab.product import Open, Product

OFF = {"embedding_cache": False, "prefix_cache": False, "disk_prefix_cache": False, "answer_cache": False}
ON = dict.fromkeys(OFF, True)


def wait(product: Product) -> None:
    """Until nothing is left to read."""
    while product.documents.pending(SHARED):
        time.sleep(0.02)


def timed_upload(product: Product, name: str, data: bytes) -> tuple[float, int, Any]:
    """Seconds until a file is ready, texts embedded meanwhile, and the document."""
    before, started = product.engine.ping(30).embedded_texts, time.perf_counter()
    made = product.uploads.upload(name, [data], SHARED)
    wait(product)
    seconds = time.perf_counter() - started
    return seconds, product.engine.ping(30).embedded_texts - before, product.documents.get(made.id, SHARED)


def ask(product: Product, question: str) -> None:
    """Ask over the documents; one token, so that what is measured is reading, not writing."""
    grounding = product.retriever.ground(question, [], None, "", SHARED, source="lab")
    request = grounded_request(
        grounding, sampling=SamplingParams(temperature=0.0), max_tokens=1, source="lab", question=question
    )
    product.generations.start(product.generations.prepare(request)).wait(120)


def twice(product: Product) -> None:
    """A 200-page document, and the same again."""
    data = document(0, 200)
    first, computed, made = timed_upload(product, "two hundred pages.md", data)
    embedding = product.engine.ping(30).embedding_seconds
    tokens = sum(chunk.tokens for chunk in product.documents.chunks(made.id, SHARED))
    again, none, _ = timed_upload(product, "two hundred pages.md", data)
    copy, also_none, _ = timed_upload(product, "a copy under another name.md", data)
    print(
        json.dumps(
            {
                "workload": "200 pages", "chunks": made.chunk_count, "tokens": tokens,
                "first_seconds": round(first, 2), "embedded_first": computed,
                "chunks_per_second": round(made.chunk_count / first, 1), "embedding_seconds": round(embedding, 2),
                "again_seconds": round(again, 3), "embedded_again": none, "ratio": round(first / again, 1),
                "another_name_seconds": round(copy, 2), "embedded_under_another_name": also_none,
            }
        ),
        flush=True,
    )  # fmt: skip


def heavy(product: Product) -> None:
    """20 documents re-processed five times, 200 questions of which most repeat, caches off and on."""
    made = [product.uploads.upload(f"book {i}.md", [document(100 + i, 6)], SHARED).id for i in range(20)]
    wait(product)
    rng = random.Random(1)
    distinct = [
        f"What did {rng.choice(PEOPLE)} note of the {rng.choice(THINGS)} of {rng.choice(PLACES)}?" for _ in range(50)
    ]
    questions = [rng.choice(distinct) for _ in range(200)]
    spent: dict[str, dict[str, float]] = {}
    for name, switches in (("off", OFF), ("on", ON)):
        product.switchboard.change(switches)
        before = product.engine.ping(30)
        for _ in range(5):
            product.documents.reread(made, SHARED)
            wait(product)
            for question in questions[:40]:
                ask(product, question)
            questions = questions[40:] + questions[:40]
        after = product.engine.ping(30)
        embedding = after.embedding_seconds - before.embedding_seconds
        spent[name] = {
            "embedding_seconds": round(embedding, 2),
            "prefill_seconds": round(after.busy_seconds - before.busy_seconds - embedding, 2),
        }
    off, on = (sum(spent[name].values()) for name in ("off", "on"))
    print(
        json.dumps({"workload": "20 documents × 5, 200 questions", **spent, "saved": round(1 - on / off, 3)}),
        flush=True,
    )


def restart(opened: Open) -> None:
    """The same question after a restart: nothing is embedded."""
    embedded = 0
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(2):
            with opened(data_dir=Path(folder)) as product:
                if not turn:
                    product.samples.load()
                    wait(product)
                ask(product, "How many steps does the tower have?")
                embedded = product.engine.ping(30).embedded_texts
    print(json.dumps({"workload": "the same question after a restart", "embedded": embedded}), flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument("--chunk-tokens", type=int, help="the most of a chunk")


def run(arguments: argparse.Namespace, opened: Open) -> None:
    """Print a line for each workload."""
    settings = {} if arguments.chunk_tokens is None else {"chunk_tokens": arguments.chunk_tokens}
    with tempfile.TemporaryDirectory() as folder, opened(data_dir=Path(folder), **settings) as product:
        twice(product)
        heavy(product)
    restart(opened)
