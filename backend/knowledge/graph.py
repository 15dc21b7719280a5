"""A sparse graph over chunks: who names whom, who stands beside whom, who shares a rare name, who is near.

Nodes are numbered. Adding chunks computes their own edges only. The file it is kept in can be thrown away.
"""

from __future__ import annotations

import json
import os
import threading
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backend.knowledge.edges import LINKS, NAMES, NEAR, NEXT, SHARES, EdgeList, Edges
from backend.knowledge.mentions import TitleIndex, headings, linked_names, names, stem, strength, title_forms

MOST_BEARERS = 5
"""A title that more nodes bear says nothing about which is meant."""
MOST_SHARING = 4
"""A name in more chunks than that is not rare."""
NEIGHBOURS, NEAREST_COSINE = 3, 0.6
EXACT_NEIGHBOURS = 20_000
"""Chunks up to which nearest neighbours are found by comparing with all; beyond, by the vector index."""
LATE_MENTIONS = 200
"""Chunks looked through for a title that has just become known."""
FORMAT = 3


@dataclass(frozen=True, slots=True)
class GraphChunk:
    """What the graph wants to know of a chunk."""

    id: str
    document_id: str
    document: str
    position: int
    text: str
    vector: np.ndarray


Mentioning = Callable[[tuple[str, ...], int], Iterable[tuple[str, str]]]
"""(title, most) → (chunk id, text) of chunks that may mention it: the keyword index's phrase search."""
Nearest = Callable[[np.ndarray, int], list[list[tuple[str, float]]]]
"""(vectors, count) → nearest chunks of each: the vector index."""


class ChunkGraph:
    """Nodes, edges and vectors of every chunk that can be found. Thread-safe."""

    def __init__(self, file: Path, dimension: int, mentioning: Mentioning, nearest: Nearest) -> None:
        self._file, self._dimension = file, dimension
        self._mentioning, self._nearest = mentioning, nearest
        self.lock = threading.RLock()
        self._saving = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        self.ids: list[str | None] = []  # None: removed
        self.node: dict[str, int] = {}
        self.document: list[str] = []
        self._positions: dict[tuple[str, int], int] = {}
        self._position: list[int] = []
        self._file_name: list[str] = []
        self._forms: list[list[tuple[str, ...]]] = []
        self._called: list[list[str]] = []  # rare names in a node's text
        self.titles = TitleIndex()
        self._sharing: dict[str, set[int]] = {}
        self._by_file: dict[str, set[int]] = {}  # document name → its first chunks
        self.vectors = np.zeros((0, self._dimension), dtype=np.float16)
        self._edges = EdgeList()
        self.version = 0

    # ---- growing and shrinking -----------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.node)

    @property
    def edge_count(self) -> int:
        """Edges between chunks that are there."""
        return len(self.edges()[0].nodes)

    def add(self, chunks: list[GraphChunk], *, replacing: Iterable[str] = ()) -> None:
        """Add chunks with their edges; known ids are left as they are.

        Args:
            chunks: what to add.
            replacing: ids of chunks that will be removed in favour of these. They are no neighbours: no edge leads to
                them, and they do not count among those that bear a title or share a name.
        """
        with self.lock:
            fresh = [chunk for chunk in chunks if chunk.id not in self.node]
            if not fresh:
                return
            leaving = {self.node[chunk_id] for chunk_id in replacing if chunk_id in self.node}
            nodes = [self._add_node(chunk) for chunk in fresh]
            borne = {form for node in nodes for form in self._forms[node]}
            new = set(nodes)
            for form in borne:
                self._late_mentions(form, new, leaving)
            for node, chunk in zip(nodes, fresh, strict=True):
                self._mention(node, chunk, leaving)
                self._stand_beside(node, leaving)
                self._share(node, chunk.text, leaving)
            self._near(nodes, leaving)
            self._changed()

    def _add_node(self, chunk: GraphChunk) -> int:
        node = len(self.ids)
        self.ids.append(chunk.id)
        self.node[chunk.id] = node
        self.document.append(chunk.document_id)
        self._position.append(chunk.position)
        self._file_name.append(chunk.document)
        self._positions[chunk.document_id, chunk.position] = node
        forms = {form for heading in headings(chunk.text) for form in title_forms(heading)}
        if chunk.position == 0:
            forms |= title_forms(stem(chunk.document))
            self._by_file.setdefault(chunk.document, set()).add(node)
        for form in forms:
            self.titles.add(form, node)
        self._forms.append(sorted(forms))
        self._called.append([])
        if node >= len(self.vectors):
            grown = np.zeros((max(1024, 2 * len(self.vectors)), self._dimension), dtype=np.float16)
            grown[: len(self.vectors)] = self.vectors
            self.vectors = grown
        self.vectors[node] = chunk.vector
        return node

    def _late_mentions(self, form: tuple[str, ...], new: set[int], leaving: set[int]) -> None:
        """Edges from older chunks to those that have just come to bear a title."""
        bearers = self.titles.holders(form) - leaving
        if len(bearers) > MOST_BEARERS:
            return
        for chunk_id, text in self._mentioning(form, LATE_MENTIONS):
            node = self.node.get(chunk_id)
            if node is None or node in new or node in leaving or form not in self.titles.find(text):
                continue
            for bearer in bearers & new:
                self._edges.add(node, bearer, NAMES, strength(form, len(bearers)))

    def _mention(self, node: int, chunk: GraphChunk, leaving: set[int]) -> None:
        for form, holders in self.titles.find(chunk.text).items():
            bearers = holders - leaving
            if len(bearers) <= MOST_BEARERS:
                for bearer in bearers:
                    self._edges.add(node, bearer, NAMES, strength(form, len(bearers)))
        for name in linked_names(chunk.text):
            for target in self._by_file.get(name, set()) - leaving:
                self._edges.add(node, target, LINKS, 1.0)

    def _stand_beside(self, node: int, leaving: set[int]) -> None:
        for step in (-1, 1):
            other = self._positions.get((self.document[node], self._position[node] + step))
            if other is not None and other not in leaving:
                self._edges.add(node, other, NEXT, 1.0)
                self._edges.add(other, node, NEXT, 1.0)

    def _share(self, node: int, text: str, leaving: set[int]) -> None:
        self._called[node] = sorted(names(text))
        for name in self._called[node]:
            self._sharing.setdefault(name, set()).add(node)
            sharing = self._sharing[name] - leaving
            if 1 < len(sharing) <= MOST_SHARING:
                for other in sharing - {node}:
                    if self.document[other] != self.document[node]:
                        self._edges.add(node, other, SHARES, 1 / len(sharing))
                        self._edges.add(other, node, SHARES, 1 / len(sharing))

    def _near(self, nodes: list[int], leaving: set[int]) -> None:
        vectors = self.vectors[nodes].astype(np.float32)
        if len(self.node) <= EXACT_NEIGHBOURS:
            others = np.array(sorted(set(self.node.values()) - leaving), dtype=np.int64)
            scores = vectors @ self.vectors[others].astype(np.float32).T
            scores[np.arange(len(nodes)), np.searchsorted(others, nodes)] = -1
            most = min(NEIGHBOURS, scores.shape[1])
            best = np.argpartition(-scores, most - 1, axis=1)[:, :most]
            found = [[(int(others[at]), float(scores[i, at])) for at in row] for i, row in enumerate(best)]
        else:
            found = [
                [(self.node[chunk_id], score) for chunk_id, score in row if chunk_id in self.node]
                for row in self._nearest(vectors, 2 * NEIGHBOURS + 1)
            ]
        for node, row in zip(nodes, found, strict=True):
            there = [(other, cosine) for other, cosine in row if other != node and other not in leaving]
            for other, cosine in there[:NEIGHBOURS]:
                if cosine >= NEAREST_COSINE:
                    self._edges.add(node, other, NEAR, cosine)
                    self._edges.add(other, node, NEAR, cosine)

    def remove(self, ids: Iterable[str]) -> None:
        """Remove chunks; unknown ids are ignored."""
        with self.lock:
            for chunk_id in ids:
                node = self.node.pop(chunk_id, None)
                if node is None:
                    continue
                self.ids[node] = None
                for form in self._forms[node]:
                    self.titles.remove(form, node)
                for name in self._called[node]:
                    self._sharing[name].discard(node)
                    if not self._sharing[name]:
                        del self._sharing[name]
                if self._positions.get((self.document[node], self._position[node])) == node:
                    del self._positions[self.document[node], self._position[node]]
                self._by_file.get(self._file_name[node], set()).discard(node)
                self._forms[node], self._called[node] = [], []
            if 3 * (len(self.ids) - len(self.node)) > len(self.ids):
                self._compact()
            self._changed()

    def _compact(self) -> None:
        """Number the chunks that are there anew, so that those removed take neither memory nor time."""
        self._edges.changed()
        self.edges()  # keeps edges between chunks that are there only
        there = [node for node, chunk_id in enumerate(self.ids) if chunk_id is not None]
        numbers = np.zeros(len(self.ids), dtype=np.int64)
        numbers[there] = np.arange(len(there))
        edges, vectors, version = self._edges, self.vectors[there], self.version
        edges.renumber(numbers)
        columns = (self.ids, self.document, self._position, self._file_name, self._forms, self._called)
        kept = [[column[node] for node in there] for column in columns]
        self._clear()
        self.ids, self.document, self._position, self._file_name, self._forms, self._called = kept  # type: ignore[assignment]
        self._edges, self.vectors, self.version = edges, vectors, version
        self._enter()

    def _enter(self) -> None:
        """Look-ups of every chunk, from the columns."""
        for node, chunk_id in enumerate(self.ids):
            if chunk_id is None:
                continue
            self.node[chunk_id] = node
            self._positions[self.document[node], self._position[node]] = node
            if self._position[node] == 0:
                self._by_file.setdefault(self._file_name[node], set()).add(node)
            for form in self._forms[node]:
                self.titles.add(form, node)
            for name in self._called[node]:
                self._sharing.setdefault(name, set()).add(node)

    def _changed(self) -> None:
        self._edges.changed()
        self.version += 1

    # ---- reading -------------------------------------------------------------------------------------------------

    def edges(self) -> tuple[Edges, Edges]:
        """Compressed rows of what each node points to, and of what points to it."""
        with self.lock:
            return self._edges.rows(np.array([chunk_id is not None for chunk_id in self.ids], dtype=bool))

    # ---- on disk -------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write everything to the file; a kill in the middle leaves the file that was there.

        Searches go on meanwhile: what is written is a copy of the columns, and rows of `vectors` never change.
        """
        with self._saving:
            with self.lock:
                self.edges()
                meta = {
                    "format": FORMAT, "ids": list(self.ids), "document": list(self.document),
                    "position": list(self._position), "forms": list(self._forms), "called": list(self._called),
                    "files": list(self._file_name),
                }  # fmt: skip
                columns: dict[str, Any] = {"vectors": self.vectors[: len(self.ids)], **self._edges.columns()}
            aside = self._file.with_suffix(".part.npz")
            self._file.parent.mkdir(parents=True, exist_ok=True)
            try:
                np.savez(aside, meta=np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8), **columns)
                os.replace(aside, self._file)
            except BaseException:
                aside.unlink(missing_ok=True)
                raise

    def load(self) -> bool:
        """Read the file; False, and an empty graph, where it is not there, damaged or of another format."""
        with self.lock:
            self._clear()
            try:
                with np.load(self._file) as data:
                    meta = json.loads(data["meta"].tobytes())
                    vectors = data["vectors"]
                    if meta["format"] != FORMAT or vectors.shape != (len(meta["ids"]), self._dimension):
                        return False
                    self._edges = EdgeList.of(data)
            except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
                self._clear()
                return False
            self.vectors = vectors
            self.ids, self.document, self._position = meta["ids"], meta["document"], meta["position"]
            self._forms = [[tuple(form) for form in forms] for forms in meta["forms"]]
            self._called = meta["called"]
            self._file_name = meta["files"]
            self._enter()
            self._changed()
            return True
