"""How well each way of searching finds: `python -m backend.lab retrieval --passages F --questions F`.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backend.knowledge.sight import SHARED
from backend.lab.product import Open, Product

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


def load(product: Product, passages: dict[str, str]) -> tuple[dict[str, str], float]:
    """Upload every passage as a Markdown document; returns titles by document id, and the seconds it took."""
    titles: dict[str, str] = {}
    started = time.perf_counter()
    for number, (title, text) in enumerate(passages.items()):
        name = re.sub(r"[^\w .()'-]+", " ", title).strip() or "passage"
        data = [f"# {title}\n\n{text}\n".encode()]
        document = product.uploads.upload(f"{name[:200]} {number}.md", data, SHARED)
        titles[document.id] = title
    while product.documents.pending(SHARED):
        time.sleep(0.2)
    failed = [d for d in product.documents.latest(SHARED) if d.state == "failed"]
    if failed:
        raise RuntimeError(f"{failed[0].name}: {failed[0].reason}")
    return titles, time.perf_counter() - started


def evaluate(product: Product, questions: list[Question], titles: dict[str, str], mode: str) -> dict[str, Any]:
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
        found = product.retriever.find(question.text, None, SHARED, mode=mode, source="lab")
        whole.append((time.perf_counter() - began) * 1000)
        bare.append(found.seconds * 1000)
        visited.append(found.visited / max(found.total, 1))
        rows = product.documents.found([scored.chunk_id for scored in found.scored[:60]], SHARED)
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument("--passages", type=Path, required=True)
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--halves", action="store_true", help="also each half of the questions apart")


def run(arguments: argparse.Namespace, opened: Open) -> None:
    """Print the figures of every mode."""
    passages = read_passages(json.loads(arguments.passages.read_text()))
    questions = read_questions(json.loads(arguments.questions.read_text()))
    with tempfile.TemporaryDirectory() as folder, opened(data_dir=Path(folder)) as product:
        titles, seconds = load(product, passages)
        graph = product.index.graph
        out: dict[str, Any] = {
            "passages": len(titles), "chunks": len(graph), "edges": graph.edge_count,
            "ingest_seconds": round(seconds, 1),
        }  # fmt: skip
        for mode in MODES:  # each question's embedding is computed in the first and kept for the others
            out[mode] = evaluate(product, questions, titles, mode)
        fresh = [Question(question.text + " ", question.supporting) for question in questions]
        product.switchboard.change({"embedding_cache": False})
        out["graph, question embedded"] = evaluate(product, fresh, titles, "graph")
        if arguments.halves:
            for name, part in (("even", questions[::2]), ("odd", questions[1::2])):
                out[f"{name} half"] = {mode: evaluate(product, part, titles, mode)["recall@5"] for mode in MODES}
    print(json.dumps(out, indent=1))
