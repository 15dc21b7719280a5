"""SIGKILL in the middle of reading, deleting, jobs, batches and chats: nothing acknowledged lost, nothing doubled.

Two kills here; TENFOLD_KILLS=50 for as many as the README reports.
"""

from __future__ import annotations

import os
import random
import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import until
from tests.product import Product

KILLS = int(os.environ.get("TENFOLD_KILLS", "2"))
PROMPTS = 10
SETTLING = 300.0


def text(number: int, edition: int) -> str:
    rng = random.Random(f"{number}-{edition}")
    lines = [f"Ship {number} edition {edition} met buoy {rng.randint(0, 10**9)} at noon." for _ in range(120)]
    return f"# Ship {number}\n\n{chr(10).join(lines)}"


@dataclass
class Acknowledged:
    """What the product said that it has."""

    documents: dict[str, tuple[str, int, int]] = field(default_factory=dict)  # id → (name, number, edition)
    deleted: set[str] = field(default_factory=set)
    chats: dict[str, tuple[str, str | None]] = field(default_factory=dict)  # id → (question, answer once shown whole)
    batches: list[str] = field(default_factory=list)
    jobs: dict[str, tuple[str, dict[int, str]]] = field(default_factory=dict)  # id → (run, answers shown by index)


def use(product: Product, known: Acknowledged, turn: int, rng: random.Random) -> None:
    """Do what people do, a little of everything."""
    for step in range(2):
        number, chance = turn * 2 + step, rng.random()
        if known.documents and chance < 0.25:
            victim = rng.choice(sorted(known.documents))
            product("delete", document=victim)
            del known.documents[victim]
            known.deleted.add(victim)
        elif known.documents and chance < 0.5:
            document = rng.choice(sorted(known.documents))
            name, old, edition = known.documents[document]
            assert product("upload", name=name, text=text(old, edition + 1)) == document
            known.documents[document] = (name, old, edition + 1)
        else:
            name = f"ship {number}.md"
            known.documents[product("upload", name=name, text=text(number, 1))] = (name, number, 1)
    job, run = product("job", prompts=[f"Count to {i + 2}, run {turn}." for i in range(PROMPTS)])
    known.jobs[job] = (run, {})
    known.batches.append(product("batch", prompts=[f"{i + 2}, {turn}," for i in range(PROMPTS)]))
    question = f"Tell me of ship {turn}."
    known.chats[product("chat", text=question)] = (question, None)


def look(product: Product, known: Acknowledged) -> None:
    """Note what is shown, and that what was shown before is still there as it was."""
    for chat, (question, shown) in known.chats.items():
        asked, answered = product("messages", conversation=chat)
        assert asked[0] == "user" and asked[2] == question
        role, state, said, _ = answered
        assert role == "assistant"
        if shown is not None:
            assert (state, said) == ("done", shown), "an answer that was shown is gone"
        elif state == "done":
            known.chats[chat] = (question, said)
    for run, shown in known.jobs.values():
        results = product("results", run=run)
        assert len({row["index"] for row in results}) == len(results)
        assert not [row["error"] for row in results if row["error"]], "a kill became a failure"
        found = {row["index"]: row["response"] for row in results}
        assert {index: found.get(index) for index in shown} == shown, "a result that was shown is gone"
        shown.update(found)


@pytest.mark.timeout(600 + 60 * KILLS)
def test_kills_lose_and_double_nothing(tmp_path: Path, cache_dir: Path, chat_folder: Path) -> None:
    rng = random.Random(7)
    product, known = Product(tmp_path / "data", cache_dir), Acknowledged()
    for turn in range(KILLS):
        product.start()
        if rng.random() < 0.5:
            product.ready()  # the other half is killed while the engine loads, too
        look(product, known)
        use(product, known, turn, rng)
        time.sleep(rng.uniform(0.0, 3.0))
        look(product, known)
        product.kill()
    product.start()
    product.ready()
    until(
        lambda: all(product("messages", conversation=chat)[1][1] != "writing" for chat in known.chats),
        "no answer is left half written", SETTLING,
    )  # fmt: skip
    whole = ["done", PROMPTS, 0]
    until(lambda: all(product("run", job=job) == whole for job in known.jobs), "every job is done", SETTLING)
    look(product, known)
    assert all(len(shown) == PROMPTS for _, shown in known.jobs.values())
    complete = ["completed", PROMPTS, 0]
    until(lambda: all(product("batch_state", batch=one) == complete for one in known.batches), "all end", SETTLING)
    for batch in known.batches:
        rows = product("batch_output", batch=batch)
        assert [row["custom_id"] for row in rows] == [str(i) for i in range(PROMPTS)]

    def settled() -> bool:
        found = product("documents")
        assert not [reason for state, reason in found.values() if state == "failed"]
        return not found.keys() & known.deleted and all(state == "ready" for state, _ in found.values())

    until(settled, "every document is read and the deleted ones are gone", SETTLING)
    assert product("documents").keys() == known.documents.keys()
    for document, (_, number, edition) in known.documents.items():
        assert f"Ship {number} edition {edition} " in product("passages", document=document)
    total = product("searchable")
    product.stop()
    consistent(tmp_path / "data", total, set(known.documents))


def consistent(data: Path, total: int, kept: set[str]) -> None:
    with sqlite3.connect(data / "tenfold.sqlite3") as database:
        live = {row[0] for row in database.execute(
            "select chunk.id from chunk join document d on d.id = document_id and chunk.build = d.build"
        )}  # fmt: skip
        builds = database.execute(
            "select document_id, count(distinct build) from chunk group by document_id"
        ).fetchall()
        doubled = [
            row[0] for row in database.execute(
                "select chunk.document_id from chunk join document d on d.id = document_id and chunk.build = d.build "
                "group by chunk.document_id, chunk.text_hash having count(*) > 1"
            )
        ]
        named = set(database.execute("select document_id, count(*) from document_version where build > 0 group by 1"))
        known = {row[0] for row in database.execute("select sha256 from document_version")}
        files = {
            row[0] for row in database.execute(
                "select sha256 from document_version where build > 0 union select sha256 from document"
            )
        }  # fmt: skip
        assert {row[0] for row in database.execute("select distinct document_id from chunk")} == kept
    with sqlite3.connect(data / "index" / "keywords.sqlite3") as keywords:
        assert {row[0] for row in keywords.execute("select id from chunk")} == live
    assert doubled == [], "a text of a document is there twice"
    assert set(builds) == named, "chunks are left of a build that no version names"
    assert total == len(live)
    import chromadb

    (collection,) = chromadb.PersistentClient(path=str(data / "index" / "chroma")).list_collections()
    assert set(collection.get(include=[])["ids"]) == live
    there = {path.name for path in (data / "files").iterdir()}
    assert files <= there <= known, "bytes are missing, or are left of an upload that was killed"
