"""Edges between numbered nodes: flat columns that grow, and compressed rows (CSR) made of them when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

NAMES, LINKS, NEXT, SHARES, NEAR = range(5)
KINDS = ("names", "links to", "stands beside", "shares a name with", "is near to")


@dataclass(frozen=True, slots=True)
class Edges:
    """Compressed rows: node i's edges are [starts[i], starts[i + 1]), strongest first."""

    starts: np.ndarray
    nodes: np.ndarray
    kinds: np.ndarray
    weights: np.ndarray

    def of(self, node: int, most: int) -> list[tuple[int, int, float]]:
        """The strongest edges of a node: (other node, kind, weight)."""
        begin, end = int(self.starts[node]), int(self.starts[node + 1])
        at = slice(begin, min(end, begin + most))
        return list(
            zip(self.nodes[at].tolist(), self.kinds[at].tolist(), self.weights[at].tolist(), strict=True)
        )

    def degree(self, node: int) -> int:
        """How many edges a node has."""
        return int(self.starts[node + 1] - self.starts[node])


class EdgeList:
    """The edges of a graph, each of a kind and a weight. Not thread-safe: the graph's lock is held by whoever calls."""

    def __init__(self) -> None:
        self._source: list[int] = []
        self._target: list[int] = []
        self._kind: list[int] = []
        self._weight: list[float] = []
        self._rows: tuple[Edges, Edges] | None = None

    def add(self, source: int, target: int, kind: int, weight: float) -> None:
        """Add an edge; none leads from a node to itself."""
        if source != target:
            self._source.append(source)
            self._target.append(target)
            self._kind.append(kind)
            self._weight.append(weight)

    def changed(self) -> None:
        """Edges or nodes were added or removed: rows are made anew when they are asked for."""
        self._rows = None

    def rows(self, alive: np.ndarray) -> tuple[Edges, Edges]:
        """Compressed rows of what each node points to, and of what points to it.

        Args:
            alive: bool [nodes]; edges of nodes that are not are dropped for good, and of several edges of one kind
                between two nodes all but one.
        """
        if self._rows is None:
            source, target = np.array(self._source, dtype=np.int32), np.array(self._target, dtype=np.int32)
            kind, weight = np.array(self._kind, dtype=np.int8), np.array(self._weight, dtype=np.float32)
            if len(source):
                kept = alive[source] & alive[target]
                source, target, kind, weight = source[kept], target[kept], kind[kept], weight[kept]
                key = (source.astype(np.int64) * len(alive) + target) * len(KINDS) + kind
                _, first = np.unique(key, return_index=True)
                source, target, kind, weight = source[first], target[first], kind[first], weight[first]
                self._source, self._target = source.tolist(), target.tolist()
                self._kind, self._weight = kind.tolist(), weight.tolist()
            self._rows = (
                _compress(source, target, kind, weight, len(alive)),
                _compress(target, source, kind, weight, len(alive)),
            )
        return self._rows

    def renumber(self, numbers: np.ndarray) -> None:
        """Give nodes other numbers: node i becomes numbers[i]."""
        self._source, self._target = numbers[self._source].tolist(), numbers[self._target].tolist()
        self._rows = None

    def columns(self) -> dict[str, np.ndarray]:
        """Everything, to be written."""
        return {
            "source": np.array(self._source, dtype=np.int32), "target": np.array(self._target, dtype=np.int32),
            "kind": np.array(self._kind, dtype=np.int8), "weight": np.array(self._weight, dtype=np.float32),
        }  # fmt: skip

    @classmethod
    def of(cls, columns: Mapping[str, np.ndarray]) -> EdgeList:
        """What `columns` gave."""
        made = cls()
        made._source, made._target = columns["source"].tolist(), columns["target"].tolist()
        made._kind, made._weight = columns["kind"].tolist(), columns["weight"].tolist()
        return made


def _compress(
    source: np.ndarray, target: np.ndarray, kind: np.ndarray, weight: np.ndarray, count: int
) -> Edges:
    order = np.lexsort((-weight, source))
    starts = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.bincount(source, minlength=count), out=starts[1:])
    return Edges(starts, target[order], kind[order], weight[order])
