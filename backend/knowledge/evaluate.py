"""How well each way of searching finds: `python -m backend.knowledge.evaluate --passages F --questions F`.

Reads the passages into a fresh data folder as documents, by the same way as uploads, and asks the questions. Prints
JSON: for keyword, dense, dense+keyword and graph, the share of a question's supporting passages among the first 2, 5
and 10, the share of chunks looked at, and milliseconds per question without and with its embedding.

Two formats: HotpotQA's (passages: title → sentences; questions with `supporting_facts`), and a list of
`{title, text}` passages with questions whose `paragraphs` are `{title, paragraph_text, is_supporting}`.
`--halves` evaluates on each half of the questions apart: a setting that fits one half by chance fails on the other.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from backend.runtime import Runtime

CUTS = (2, 5, 10)
MODES = ("keyword", "dense", "dense+keyword", "graph")


@dataclass(frozen=True)
class Question:
    """A question and the titles of the passages that answer it."""

    text: str
    supporting: frozenset[str]


def read_passages(data: Any) -> dict[str, str]:
    """Title → text, of either format."""
    if isinstance(data, dict):
        return {title: "".join(sentences) for title, sentences in data.items()}
    return {row["title"]: row["text"] for row in data}


def read_questions(data: list[dict[str, Any]]) -> list[Question]:
    """Questions of either format."""
    out = []
    for row in data:
        if "supporting_facts" in row:
            titles = {fact[0] for fact in row["supporting_facts"]}
        else:
            titles = {p["title"] for p in row["paragraphs"] if p["is_supporting"]}
        out.append(Question(row["question"], frozenset(titles)))
    return out


def load(runtime: Runtime, passages: dict[str, str]) -> tuple[dict[str, str], float]:
    """Upload every passage as a Markdown document; returns titles by document id, and the seconds it took."""
    titles: dict[str, str] = {}
    started = time.perf_counter()
    for number, (title, text) in enumerate(passages.items()):
        name = re.sub(r"[^\w .()'-]+", " ", title).strip() or "passage"
        document = runtime.uploads.upload(f"{name[:200]} {number}.md", [f"# {title}\n\n{text}\n".encode()])
        titles[document.id] = title
    while runtime.documents.pending:
        time.sleep(0.2)
    failed = [d for d in runtime.documents.find() if d.state == "failed"]
    if failed:
        raise RuntimeError(f"{failed[0].name}: {failed[0].reason}")
    return titles, time.perf_counter() - started


def evaluate(runtime: Runtime, questions: list[Question], titles: dict[str, str], mode: str) -> dict[str, Any]:
    """One row of figures."""
    recalls: dict[int, list[float]] = {cut: [] for cut in CUTS}
    visited: list[float] = []
    bare: list[float] = []
    whole: list[float] = []
    known = frozenset(titles.values())
    for question in questions:
        supporting = question.supporting & known
        if not supporting:
            continue
        began = time.perf_counter()
        found = runtime.retriever.find(question.text, None, mode=mode, source="lab")
        whole.append((time.perf_counter() - began) * 1000)
        bare.append(found.seconds * 1000)
        visited.append(found.visited / max(found.total, 1))
        rows = runtime.documents.found([scored.chunk_id for scored in found.scored[:60]])
        ranked = list(dict.fromkeys(
            titles[rows[s.chunk_id][1].id] for s in found.scored[:60] if s.chunk_id in rows
        ))  # fmt: skip
        for cut in CUTS:
            recalls[cut].append(len(supporting.intersection(ranked[:cut])) / len(supporting))
    p50, p95 = np.percentile(bare, [50, 95])
    q50, q95 = np.percentile(whole, [50, 95])
    return {
        "mode": mode,
        "questions": len(bare),
        **{f"recall@{cut}": round(float(np.mean(values)), 4) for cut, values in recalls.items()},
        "visited_share": round(float(np.mean(visited)), 4),
        "ms_p50": round(float(p50), 2), "ms_p95": round(float(p95), 2),
        "ms_with_embedding_p50": round(float(q50), 2), "ms_with_embedding_p95": round(float(q95), 2),
    }  # fmt: skip


def with_runtime(work: Callable[[Runtime], None], **settings: Any) -> None:
    """Do something with the product over a fresh data folder that shares the models' cache."""
    from backend.runtime import close_runtime, open_runtime
    from backend.settings import Settings

    cache = Settings().cache_dir
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        cache.mkdir(parents=True, exist_ok=True)
        (data / "cache").symlink_to(cache)
        runtime = open_runtime(Settings(data_dir=data, **settings))
        try:
            if not runtime.engine.wait_ready(300) or not runtime.index.wait_opened(60):
                raise RuntimeError(runtime.engine.state.detail or "the engine did not start")
            work(runtime)
        finally:
            close_runtime()


def main() -> None:
    """Parse arguments and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=Path, required=True)
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--halves", action="store_true", help="also each half of the questions apart")
    a = parser.parse_args()
    passages = read_passages(json.loads(a.passages.read_text()))
    questions = read_questions(json.loads(a.questions.read_text()))

    def work(runtime: Runtime) -> None:
        titles, seconds = load(runtime, passages)
        graph = runtime.index.graph
        out: dict[str, Any] = {
            "passages": len(titles), "chunks": len(graph), "edges": graph.edge_count,
            "ingest_seconds": round(seconds, 1),
        }  # fmt: skip
        for mode in MODES:  # each question's embedding is computed in the first and kept for the others
            out[mode] = evaluate(runtime, questions, titles, mode)
        fresh = [Question(question.text + " ", question.supporting) for question in questions]
        runtime.set_switches({"embedding_cache": False})
        out["graph, question embedded"] = evaluate(runtime, fresh, titles, "graph")
        if a.halves:
            for name, part in (("even", questions[::2]), ("odd", questions[1::2])):
                out[f"{name} half"] = {mode: evaluate(runtime, part, titles, mode)["recall@5"] for mode in MODES}
        print(json.dumps(out, indent=1))

    with_runtime(work)


if __name__ == "__main__":
    main()
