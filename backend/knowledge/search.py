"""From a question to the chunks that answer it, over the sparse graph.

Seeds are what is near (vectors), what has the question's words (keywords) and what the question names (titles). From
the best of them a gated hop or two leads to what they name or what names them, and only what was reached is scored.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

from backend.knowledge.edges import KINDS, LINKS, NAMES, NEAR, NEXT, SHARES
from backend.knowledge.graph import ChunkGraph
from backend.knowledge.keywords import KeywordIndex
from backend.knowledge.mentions import strength
from backend.knowledge.vectors import VectorIndex

SEEDS = 30
"""Chunks that vectors and keywords give each."""
KEYWORD, TITLE = 0.3, 0.2
"""What a full keyword match, and being named by the question, add to the cosine similarity."""
STARTS = 5
"""Best seeds from which the walk begins."""
SECOND_STARTS = 2
"""Best chunks of the first hop from which it goes on; its gain counts half."""
FORWARD = {NAMES: 0.4, LINKS: 0.4, NEXT: 0.1, SHARES: 0.1, NEAR: 0.1}
BACKWARD = {NAMES: 0.2, LINKS: 0.2}
"""Share of a chunk's own score that an edge passes on, by kind and direction."""
MOST_OUT, MOST_IN = 16, 20
"""Edges followed from a node; a node that more name is a hub, and is not walked backwards from."""
MODES = ("graph", "dense+keyword", "dense", "keyword")


@dataclass(frozen=True, slots=True)
class Step:
    """An edge that was walked: from one chunk to another, by kind, and what it added; `backward`: against its way."""

    source: str
    target: str
    kind: str
    gain: float
    backward: bool = False


@dataclass(slots=True)
class Scored:
    """A chunk that was reached, and what its score is made of."""

    chunk_id: str
    cosine: float = 0.0
    keyword: float = 0.0
    title: float = 0.0
    hop: float = 0.0
    step: Step | None = None  # the edge that gave `hop`
    seed: bool = True

    @property
    def from_keywords(self) -> float:
        """What the question's words in it add to the score."""
        return KEYWORD * self.keyword

    @property
    def from_title(self) -> float:
        """What being named by the question adds to the score."""
        return TITLE * self.title

    @property
    def own(self) -> float:
        """The score without what a hop added."""
        return self.cosine + self.from_keywords + self.from_title

    @property
    def score(self) -> float:
        """What it is ranked by."""
        return self.own + self.hop


@dataclass(frozen=True)
class Found:
    """The answer to a search: every chunk scored, best first, and what it took.

    Attributes:
        visited: chunks scored; `total`: chunks there are to be searched.
        seconds: time of the search, without the embedding of the question.
        steps: edges walked.
    """

    scored: list[Scored]
    visited: int
    total: int
    seconds: float
    mode: str
    steps: list[Step] = field(default_factory=list)


def search(
    question: str,
    vector: np.ndarray,
    graph: ChunkGraph,
    vectors: VectorIndex,
    keywords: KeywordIndex,
    *,
    mode: str = "graph",
    documents: set[str] | None = None,
) -> Found:
    """Rank chunks for a question.

    Args:
        question: as it was asked.
        vector: its embedding, [dimension], of length 1.
        graph: the chunks and their edges.
        vectors: nearest neighbours.
        keywords: full text.
        mode: "graph"; "dense+keyword" without the walk; "dense", which compares with every chunk; "keyword".
        documents: search only these; None searches all.
    """
    started = time.perf_counter()
    with graph.lock:
        found = _dense(vector, graph, documents) if mode == "dense" else None
        steps: list[Step] = []
        if found is None:
            found = _seeds(question, vector, graph, vectors, keywords, mode, documents)
        if mode == "graph":
            steps = _walk(vector, graph, found, documents)
        live = graph.node.values()
        total = len(live) if documents is None else sum(graph.document[node] in documents for node in live)
    ranked = sorted(found.values(), key=lambda s: (-s.score, s.chunk_id))
    return Found(ranked, len(ranked), total, time.perf_counter() - started, mode, steps)


def _cosine(vector: np.ndarray, graph: ChunkGraph, nodes: list[int]) -> np.ndarray:
    scores: np.ndarray = graph.vectors[nodes].astype(np.float32) @ vector
    return scores


def _dense(vector: np.ndarray, graph: ChunkGraph, documents: set[str] | None) -> dict[int, Scored]:
    nodes = [n for n in graph.node.values() if documents is None or graph.document[n] in documents]
    scores = _cosine(vector, graph, nodes)
    return {n: Scored(graph.ids[n] or "", float(s)) for n, s in zip(nodes, scores, strict=True)}


def _seeds(
    question: str,
    vector: np.ndarray,
    graph: ChunkGraph,
    vectors: VectorIndex,
    keywords: KeywordIndex,
    mode: str,
    documents: set[str] | None,
) -> dict[int, Scored]:
    def allowed(node: int | None) -> bool:
        return node is not None and (documents is None or graph.document[node] in documents)

    wide = SEEDS if documents is None else 4 * SEEDS  # some of what keywords give lies elsewhere
    hits = [(c, s) for c, s in keywords.query(question, wide) if allowed(graph.node.get(c))][:SEEDS]
    best = hits[0][1] if hits and hits[0][1] > 0 else 1.0
    matched = {graph.node[chunk]: score / best for chunk, score in hits}
    named: dict[int, float] = {}
    near: list[int] = []
    if mode != "keyword":
        chosen = None if documents is None else sorted(documents)
        near = [graph.node[c] for c, _ in vectors.query(vector, SEEDS, chosen) if allowed(graph.node.get(c))]
    if mode == "graph":
        for form, bearers in graph.titles.find(question).items():
            for node in bearers if len(bearers) <= MOST_OUT else ():
                if allowed(node):
                    named[node] = max(named.get(node, 0.0), strength(form, len(bearers)))
    nodes = list(dict.fromkeys([*near, *matched, *named]))
    cosines = _cosine(vector, graph, nodes) if mode != "keyword" else np.zeros(len(nodes))
    return {
        node: Scored(graph.ids[node] or "", float(cosine), matched.get(node, 0.0), named.get(node, 0.0))
        for node, cosine in zip(nodes, cosines, strict=True)
    }


def _walk(
    vector: np.ndarray, graph: ChunkGraph, found: dict[int, Scored], documents: set[str] | None
) -> list[Step]:
    """Follow edges from the best chunks; adds what is reached to `found`, and what an edge gives to its score."""
    outgoing, incoming = graph.edges()
    steps: list[Step] = []
    starts = sorted(found, key=lambda n: -found[n].own)[:STARTS]
    for share, most in ((1.0, SECOND_STARTS), (0.5, 0)):
        gains: dict[int, Step] = {}
        for start in starts:
            here = found[start]
            ways = [(o, k, FORWARD[k] * w, False) for o, k, w in outgoing.of(start, MOST_OUT)]
            if incoming.degree(start) <= MOST_IN:
                back = incoming.of(start, MOST_IN)
                ways += [(o, k, BACKWARD[k] * w, True) for o, k, w in back if k in BACKWARD]
            for other, kind, passed, backward in ways:
                if documents is not None and graph.document[other] not in documents:
                    continue
                gain = share * passed * max(here.own, 0.0)
                if other not in gains or gain > gains[other].gain:
                    gains[other] = Step(here.chunk_id, graph.ids[other] or "", KINDS[kind], gain, backward)
        fresh = [node for node in gains if node not in found]
        for node, cosine in zip(fresh, _cosine(vector, graph, fresh), strict=True):
            found[node] = Scored(graph.ids[node] or "", float(cosine), seed=False)
        for node, step in gains.items():
            if step.gain > found[node].hop:
                found[node].hop, found[node].step = step.gain, step
        steps += gains.values()
        starts = sorted(fresh, key=lambda n: -found[n].score)[:most]
    return steps
