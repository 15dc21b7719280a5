"""The index can be thrown away: lost, damaged, or made for another model, it is built again from the database."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import chromadb
import pytest
from chromadb.api.shared_system_client import SharedSystemClient
from tokenizers import Tokenizer

from backend.knowledge.sight import SHARED
from tests.knowledge.conftest import DIMENSION, Knowledge

TEXT = "# Mill\n\nThe mill grinds rye on Thursdays."
QUESTION = "What does the mill grind?"


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    """A data folder in which a document was read and closed in order."""
    first = Knowledge(tmp_path / "data", tokenizer)
    first.start()
    first.wait(first.upload("mill.md", TEXT))
    first.close()
    SharedSystemClient.clear_system_cache()  # as in a process of its own
    return tmp_path / "data"


def found(knowledge: Knowledge, mode: str) -> set[str]:
    vector = knowledge.embeddings.embed([QUESTION], source="test").vectors[0]
    result = knowledge.index.search(QUESTION, vector, mode=mode, documents=None)
    ids = [scored.chunk_id for scored in result.scored]
    return {chunk.text for chunk, _ in knowledge.documents.found(ids, SHARED).values()}


@pytest.mark.parametrize("damage", ["lost", "corrupt"])
def test_the_index_is_rebuilt_without_computing_an_embedding(folder: Path, tokenizer: Tokenizer, damage: str) -> None:
    if damage == "lost":
        shutil.rmtree(folder / "index")
    else:
        for file in (folder / "index").rglob("*"):
            if file.is_file():
                file.write_bytes(b"this is no index" * 100)
    again = Knowledge(folder, tokenizer)
    again.start()
    assert again.engine.calls == []
    for mode in ("dense", "graph"):
        assert found(again, mode), mode
    assert len(again.engine.calls) == 1, "only the question had to be embedded"
    again.close()


def test_another_embedding_model_is_another_index_and_the_old_one_goes(folder: Path, tokenizer: Tokenizer) -> None:
    again = Knowledge(folder, tokenizer)
    again.engine.info = replace(again.engine.info, embedding_fingerprint="e" * 32)
    again.index.open("e" * 16, DIMENSION)
    assert len(again.engine.calls) == 1, "another model's vectors are not ours"
    assert found(again, "dense")
    again.close()
    SharedSystemClient.clear_system_cache()
    (collection,) = chromadb.PersistentClient(path=str(folder / "index" / "chroma")).list_collections()
    assert "e" * 16 in collection.name
    (graph,) = (folder / "index").glob("graph-*.npz")
    assert graph.name == f"graph-{'e' * 16}.npz"
