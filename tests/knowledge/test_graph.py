"""The graph over chunks: edges from both sides of a mention, the same after a restart, gone with their chunks."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.knowledge.edges import KINDS
from backend.knowledge.graph import ChunkGraph, GraphChunk
from backend.knowledge.keywords import KeywordIndex
from backend.knowledge.mentions import TitleIndex, linked_names, names, title_forms

DIMENSION = 8


class World:
    """A graph and the keyword index it asks for late mentions."""

    def __init__(self, folder: Path) -> None:
        self.keywords = KeywordIndex(folder / "keywords.sqlite3")
        self.keywords.open()
        self.graph = ChunkGraph(folder / "graph.npz", DIMENSION, self.keywords.phrase, lambda *_: [])
        self.seed = 0

    def add(self, *chunks: tuple[str, str, int, str]) -> None:
        rows = []
        for document, name, position, text in chunks:
            self.seed += 1
            vector = np.random.default_rng(self.seed).normal(size=DIMENSION).astype(np.float32)
            rows.append(GraphChunk(f"{document}/{position}", document, name, position, text, vector / 100))
        self.keywords.add((c.id, c.document, c.text) for c in rows)
        self.graph.add(rows)

    def edges(self, kinds: tuple[str, ...] = KINDS[:4]) -> set[tuple[str, str, str]]:
        graph, out = self.graph, set()
        for node in graph.node.values():
            for other, kind, _ in graph.edges()[0].of(node, 99):
                if KINDS[kind] in kinds:
                    out.add((str(graph.ids[node]), KINDS[kind], str(graph.ids[other])))
        return out


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


MILL = ("mill", "old mill.md", 0, "# Old Mill\n\nBuilt by Anna Weber in 1820.")
RIVER = ("river", "river.md", 0, "# River Elm\n\nIt turns the old mill and three others. See [bridge](bridge.md).")
BRIDGE = ("bridge", "bridge.md", 0, "# Stone Bridge\n\nAnna Weber crossed the River Elm here.")
MORE = ("bridge", "bridge.md", 1, "It was closed in winter.")


ORDERS = [(MILL, RIVER, BRIDGE, MORE), (BRIDGE, MORE, RIVER, MILL), (RIVER, BRIDGE, MORE, MILL)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("together", [True, False])
def test_the_same_edges_whatever_came_first(world: World, order: Any, together: bool) -> None:
    if together:
        world.add(*order)
    else:
        for chunk in order:
            world.add(chunk)
    edges = world.edges(("names", "stands beside", "shares a name with"))
    assert edges == {
        ("river/0", "names", "mill/0"), ("river/0", "names", "bridge/0"), ("bridge/0", "names", "river/0"),
        ("bridge/0", "stands beside", "bridge/1"), ("bridge/1", "stands beside", "bridge/0"),
        ("mill/0", "shares a name with", "bridge/0"), ("bridge/0", "shares a name with", "mill/0"),
        ("river/0", "shares a name with", "bridge/0"), ("bridge/0", "shares a name with", "river/0"),
    }


def test_a_removed_chunk_takes_its_edges_and_titles_along(world: World) -> None:
    world.add(MILL, RIVER, BRIDGE, MORE)
    world.keywords.remove(["mill/0"])
    world.graph.remove(["mill/0", "no such"])
    assert not any("mill/0" in edge for edge in world.edges())
    world.add(("late", "late.md", 0, "The old mill is gone."))
    assert not any(source == "late/0" and kind == "names" for source, kind, _ in world.edges())
    world.add(MILL)
    assert ("late/0", "names", "mill/0") in world.edges()
    assert ("river/0", "names", "mill/0") in world.edges()


def test_a_graph_from_disk_is_the_one_that_was_saved(world: World, tmp_path: Path) -> None:
    world.add(MILL, RIVER, BRIDGE, MORE)
    world.graph.remove(["bridge/1"])
    before = world.edges(KINDS)
    world.graph.save()
    world.graph = ChunkGraph(tmp_path / "graph.npz", DIMENSION, world.keywords.phrase, lambda *_: [])
    assert world.graph.load()
    assert world.edges(KINDS) == before
    world.add(("new", "new.md", 0, "Beside the Stone Bridge."))
    assert ("new/0", "names", "bridge/0") in world.edges()


@pytest.mark.parametrize("damage", ["gone", "cut", "other dimension"])
def test_a_damaged_file_gives_an_empty_graph(world: World, tmp_path: Path, damage: str) -> None:
    world.add(MILL)
    world.graph.save()
    file, dimension = tmp_path / "graph.npz", DIMENSION
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:100])
    else:
        dimension = DIMENSION + 1
    again = ChunkGraph(file, dimension, world.keywords.phrase, lambda *_: [])
    assert not again.load() and len(again) == 0


def test_a_title_that_many_bear_is_no_mention(world: World) -> None:
    world.add(*[(f"d{i}", f"note {i}.md", 0, "# Summary\n\nNothing.") for i in range(8)])
    world.add(("x", "x.md", 0, "This is a summary."))
    assert not any(source == "x/0" for source, kind, _ in world.edges(("names",)))


def test_the_longest_title_is_meant() -> None:
    index = TitleIndex()
    index.add(("new", "york"), 1)
    index.add(("new", "york", "times"), 2)
    found = index.find("He read the New York Times in New York.")
    assert found == {("new", "york", "times"): {2}, ("new", "york"): {1}}
    index.remove(("new", "york", "times"), 2)
    assert index.find("The New York Times") == {("new", "york"): {1}}


def test_titles_links_and_names_are_read_from_text() -> None:
    assert title_forms("Lilu (mythology)") == {("lilu", "mythology"), ("lilu",)}
    assert title_forms("The") == set()
    assert title_forms("Café Élan") == {("cafe", "elan")}
    assert linked_names("[a](docs/b.md#x) and [c](https://example.org/d.md)") == {"b.md"}
    assert names("Then Anna van Dyke met Bob.") == {"anna van dyke"}


def test_keywords_find_stems_and_survive_a_corrupt_file(tmp_path: Path) -> None:
    file = tmp_path / "k.sqlite3"
    index = KeywordIndex(file)
    index.open()
    index.add([("a", "Mills", "The mill grinds rye."), ("b", "Boats", 'A "quoted" boat; DROP TABLE words')])
    assert [c for c, _ in index.query("Which mills are grinding?", 5)] == ["a"]
    assert [c for c, _ in index.query('"quoted" OR (boat* NEAR', 5)] == ["b"]
    assert index.query("the of and", 5) == [] and index.query("?!", 5) == []
    index.add([("a", "Mills", "It stands still.")])
    assert index.query("rye", 5) == []
    index.remove(["a", "zzz"])
    assert index.ids() == {"b"}
    index.close()
    file.write_bytes(b"no database at all" * 300)
    index.open()
    assert index.ids() == set()
    index.close()


def chunks_of(document: str, edition: int) -> list[GraphChunk]:
    """A document of ten chunks as one build of it is stored: new ids, the same text and vectors."""
    out = []
    for position in range(10):
        text = f"# {document} {position}\n\nAnna Weber{position} came by {'the mill' if position else 'boat'}."
        vector = np.random.default_rng(len(document) * 100 + position).normal(size=DIMENSION).astype(np.float32)
        out.append(
            GraphChunk(f"{document}-{edition}/{position}", document, f"{document}.md", position, text, vector / 3)
        )
    return out


def by_place(graph: ChunkGraph) -> set[tuple[Any, ...]]:
    """Every edge with its weight, by what its ends say rather than by their ids."""
    def place(node: int) -> tuple[str, int]:
        return graph.document[node], graph._position[node]

    return {
        (place(node), KINDS[kind], place(other), round(weight, 5))
        for node in graph.node.values()
        for other, kind, weight in graph.edges()[0].of(node, 999)
    }


def test_a_document_read_again_and_again_leaves_the_graph_as_if_it_had_been_read_once(tmp_path: Path) -> None:
    def store(graph: ChunkGraph, keywords: KeywordIndex, chunks: list[GraphChunk], old: list[str]) -> None:
        keywords.add((c.id, c.document, c.text) for c in chunks)
        for some in (chunks[:4], chunks[4:]):
            graph.add(some, replacing=old)
        graph.remove(old)
        keywords.remove(old)

    def made(name: str) -> tuple[ChunkGraph, KeywordIndex]:
        keywords = KeywordIndex(tmp_path / f"{name}.sqlite3")
        keywords.open()
        return ChunkGraph(tmp_path / f"{name}.npz", DIMENSION, keywords.phrase, lambda *_: []), keywords

    often, fresh = made("often"), made("fresh")
    for graph, keywords in (often, fresh):
        store(graph, keywords, chunks_of("river", 0), [])
    for edition in range(6):
        store(*often, chunks_of("bridge", edition), [f"bridge-{edition - 1}/{i}" for i in range(10)] if edition else [])
    store(*fresh, chunks_of("bridge", 5), [])
    graph = often[0]
    assert len(graph) == 20 and len(graph.ids) <= 30, "slots of what was removed are used again"
    assert by_place(graph) == by_place(fresh[0])
    graph.save()
    loaded = ChunkGraph(tmp_path / "often.npz", DIMENSION, often[1].phrase, lambda *_: [])
    assert loaded.load() and by_place(loaded) == by_place(graph)


def test_a_graph_is_searched_while_it_is_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add(MILL, RIVER, BRIDGE, MORE)
    writing, go_on = threading.Event(), threading.Event()
    savez = np.savez

    def slow(*args: Any, **columns: Any) -> None:
        writing.set()
        go_on.wait(60)
        savez(*args, **columns)

    monkeypatch.setattr(np, "savez", slow)
    saving = threading.Thread(target=world.graph.save)
    saving.start()
    assert writing.wait(60)
    assert world.graph.lock.acquire(timeout=30), "the writer holds the lock of every search"
    world.graph.lock.release()
    world.graph.remove(["mill/0", "river/0"])
    go_on.set()
    saving.join(60)
    again = ChunkGraph(world.graph._file, DIMENSION, world.keywords.phrase, lambda *_: [])
    assert again.load() and len(again) == 4, "what was written is the graph as it was"


def test_an_error_leaves_the_keyword_index_usable(tmp_path: Path) -> None:
    index = KeywordIndex(tmp_path / "k.sqlite3")
    index.open()
    index.add([("a", "Mills", "The mill grinds rye.")])

    def failing() -> Any:
        yield "a"
        raise OSError("disk I/O error")

    with pytest.raises(OSError, match="disk"):
        index.remove(failing())
    assert index.ids() == {"a"}, "half a removal is none"
    index.add([("b", "Boats", "A boat.")])
    assert index.ids() == {"a", "b"}
    index.close()
