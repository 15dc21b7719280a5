"""What never computing twice is worth, and how search grows: `python -m backend.lab.knowledge [--growth 1000 10000 …]`.

Over a fresh data folder, with the real models and texts made up by a rule: a 200-page document uploaded twice, a
restart, and 20 documents re-processed five times with 200 questions, caches on and off. `--growth` instead measures the
search over made-up chunks with made-up vectors, clustered as real ones are. Prints JSON lines. Run it alone.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.engine.messages import SamplingParams
from backend.generation.conversations import grounded_request
from backend.knowledge.evaluate import with_runtime
from backend.knowledge.graph import ChunkGraph, GraphChunk
from backend.knowledge.keywords import KeywordIndex
from backend.knowledge.search import search
from backend.knowledge.vectors import VectorIndex
from backend.settings import Settings

if TYPE_CHECKING:
    from backend.runtime import Runtime

THINGS = ("bell", "clock", "gate", "mill", "barn", "tower", "quay", "ferry", "lamp", "bridge", "kiln", "well", "weir")
BEGINNINGS, ENDINGS = ("Nor", "Sal", "Hol", "Gre", "Mar", "Wen", "Tor", "Bly"), ("by", "ford", "mouth")
PLACES = [a + b for a in BEGINNINGS for b in ENDINGS]
FIRST_NAMES, LAST_NAMES = ("Anna", "Piet", "Marta", "Jonas", "Edda"), ("Weber", "Visser", "Blum", "Lund")
PEOPLE = [f"{a} {b}" for a in FIRST_NAMES for b in LAST_NAMES]
OFF = {"embedding_cache": False, "prefix_cache": False, "disk_prefix_cache": False, "answer_cache": False}
ON = dict.fromkeys(OFF, True)
PAGE_SENTENCES = 26
"""Sentences of 16 to 20 words, as many as a printed page has."""


def document(seed: int, pages: int) -> bytes:
    """A document made up by a rule: facts about things in places, a section a page."""
    rng = random.Random(seed)
    out = []
    for page in range(pages):
        out.append(f"# The {rng.choice(THINGS)} of {rng.choice(PLACES)}, part {page + 1}\n")
        for _ in range(PAGE_SENTENCES):
            out.append(
                f"In {rng.randint(1700, 1999)} {rng.choice(PEOPLE)} measured the {rng.choice(THINGS)} of "
                f"{rng.choice(PLACES)} and noted {rng.randint(10, 9999)} ells, which the council paid in full."
            )
        out.append("")
    return "\n".join(out).encode()


def wait(runtime: Runtime) -> None:
    """Until nothing is left to read."""
    while runtime.documents.pending:
        time.sleep(0.02)


def timed_upload(runtime: Runtime, name: str, data: bytes) -> tuple[float, int, Any]:
    """Seconds until a file is ready, texts embedded meanwhile, and the document."""
    before, started = runtime.engine.ping(30).embedded_texts, time.perf_counter()
    made = runtime.uploads.upload(name, [data])
    wait(runtime)
    seconds = time.perf_counter() - started
    return seconds, runtime.engine.ping(30).embedded_texts - before, runtime.documents.get(made.id)


def ask(runtime: Runtime, question: str) -> None:
    """Ask over the documents; one token, so that what is measured is reading, not writing."""
    grounding = runtime.retriever.ground(question, [], None, "", source="lab")
    request = grounded_request(
        grounding, sampling=SamplingParams(temperature=0.0), max_tokens=1, source="lab", question=question
    )
    runtime.generations.start(runtime.generations.prepare(request)).wait(120)


def twice(runtime: Runtime) -> None:
    """A 200-page document, and the same again."""
    data = document(0, 200)
    first, computed, made = timed_upload(runtime, "two hundred pages.md", data)
    embedding = runtime.engine.ping(30).embedding_seconds
    with runtime.database.session() as session:
        from sqlmodel import func, select

        from backend.store.tables.documents import Chunk

        tokens = session.exec(select(func.sum(Chunk.tokens)).where(Chunk.document_id == made.id)).one()
    again, none, _ = timed_upload(runtime, "two hundred pages.md", data)
    copy, also_none, _ = timed_upload(runtime, "a copy under another name.md", data)
    print(
        json.dumps(
            {
                "workload": "200 pages", "chunks": made.chunk_count, "tokens": int(tokens or 0),
                "first_seconds": round(first, 2), "embedded_first": computed,
                "chunks_per_second": round(made.chunk_count / first, 1), "embedding_seconds": round(embedding, 2),
                "again_seconds": round(again, 3), "embedded_again": none, "ratio": round(first / again, 1),
                "another_name_seconds": round(copy, 2), "embedded_under_another_name": also_none,
            }
        ),
        flush=True,
    )  # fmt: skip


def heavy(runtime: Runtime) -> None:
    """20 documents re-processed five times, 200 questions of which most repeat, caches off and on."""
    made = [runtime.uploads.upload(f"book {i}.md", [document(100 + i, 6)]).id for i in range(20)]
    wait(runtime)
    rng = random.Random(1)
    distinct = [
        f"What did {rng.choice(PEOPLE)} note of the {rng.choice(THINGS)} of {rng.choice(PLACES)}?" for _ in range(50)
    ]
    questions = [rng.choice(distinct) for _ in range(200)]
    spent: dict[str, dict[str, float]] = {}
    for name, switches in (("off", OFF), ("on", ON)):
        runtime.set_switches(switches)
        before = runtime.engine.ping(30)
        for _ in range(5):
            runtime.documents.reread(made)
            wait(runtime)
            for question in questions[:40]:
                ask(runtime, question)
            questions = questions[40:] + questions[:40]
        after = runtime.engine.ping(30)
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


def restart() -> None:
    """The same question after a restart: nothing is embedded."""
    from backend.runtime import close_runtime, open_runtime
    from backend.settings import Settings

    cache = Settings().cache_dir
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "cache").symlink_to(cache)
        embedded = 0
        for turn in range(2):
            runtime = open_runtime(Settings(data_dir=Path(folder)))
            runtime.engine.wait_ready(120)
            if not turn:
                runtime.load_samples()
                wait(runtime)
            runtime.index.wait_opened(60)
            ask(runtime, "How many steps does the tower have?")
            embedded = runtime.engine.ping(30).embedded_texts
            close_runtime()
        print(json.dumps({"workload": "the same question after a restart", "embedded": embedded}), flush=True)


def growth(sizes: list[int]) -> None:
    """Milliseconds of a search by the number of chunks, over the graph and by a full pass."""
    dimension, rng = 384, np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        keywords = KeywordIndex(Path(folder) / "keywords.sqlite3")
        keywords.open()
        vectors = VectorIndex(Path(folder) / "chroma")
        vectors.open("growth")
        graph = ChunkGraph(Path(folder) / "graph.npz", dimension, keywords.phrase, vectors.query_many)
        centers = rng.normal(size=(400, dimension)).astype(np.float32)
        words = random.Random(2)

        def chunk(number: int) -> GraphChunk:
            vector = centers[number % 400] + 1.2 * rng.normal(size=dimension).astype(np.float32)
            other = words.randrange(max(number, 1))
            thing, person = words.choice(THINGS), words.choice(PEOPLE)
            text = (
                f"# Record {number}\n\nIn {words.randint(1700, 1999)} {person} measured {thing} "
                f"{words.randint(1, 10**6)} of {words.choice(PLACES)}. Compare record {other}."
            )
            return GraphChunk(
                f"c{number}", f"d{number}", f"record {number}.md", 0, text, vector / np.linalg.norm(vector)
            )

        done = 0
        for size in sorted(sizes):
            started = time.perf_counter()
            while done < size:
                rows = [chunk(done + i) for i in range(min(1000, size - done))]
                vectors.add([r.id for r in rows], np.stack([r.vector for r in rows]), [r.document_id for r in rows])
                keywords.add((r.id, r.document, r.text) for r in rows)
                graph.add(rows)
                done += len(rows)
            graph.edges()
            built = time.perf_counter() - started
            row: dict[str, Any] = {"workload": "growth", "chunks": size, "edges": graph.edge_count}
            for mode in ("graph", "dense"):
                times, visited = [], []
                for i in range(60):
                    vector = centers[i] / np.linalg.norm(centers[i])
                    question = f"What did {words.choice(PEOPLE)} measure in record {words.randrange(size)}?"
                    found = search(question, vector, graph, vectors, keywords, mode=mode)
                    times.append(found.seconds * 1000)
                    visited.append(found.visited)
                row[mode] = {
                    "ms_p50": round(float(np.percentile(times[10:], 50)), 2),
                    "ms_p95": round(float(np.percentile(times[10:], 95)), 2), "visited": round(float(np.mean(visited))),
                }  # fmt: skip
            print(json.dumps({**row, "seconds_to_add": round(built, 1)}), flush=True)
        keywords.close()


def main() -> None:
    """Parse arguments and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--growth", type=int, nargs="+", help="numbers of chunks")
    parser.add_argument("--chunk-tokens", type=int, default=Settings().chunk_tokens, help="the most of a chunk")
    arguments = parser.parse_args()
    if arguments.growth:
        growth(arguments.growth)
        return

    def work(runtime: Runtime) -> None:
        twice(runtime)
        heavy(runtime)

    with_runtime(work, chunk_tokens=arguments.chunk_tokens)
    restart()


if __name__ == "__main__":
    main()
