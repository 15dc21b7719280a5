"""How search grows: `python -m backend.lab.growth 1000 10000 …`.

Measures it over made-up chunks with made-up vectors, clustered as real ones are. Prints JSON lines. Run it alone.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from backend.knowledge.graph import ChunkGraph, GraphChunk
from backend.knowledge.keywords import KeywordIndex
from backend.knowledge.search import search
from backend.knowledge.vectors import VectorIndex
from backend.lab.made_up import PEOPLE, PLACES, THINGS


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
    parser.add_argument("chunks", type=int, nargs="+", help="numbers of chunks")
    growth(parser.parse_args().chunks)


if __name__ == "__main__":
    main()
