"""SIGKILL at random moments of uploading, reading and deleting: nothing lost, nothing doubled, the index in step.

Four kills here; TENFOLD_KILLS=50 for as many as the README reports.
"""

from __future__ import annotations

import os
import random
import sqlite3
import time
from pathlib import Path
from typing import Any

import httpx

KILLS = int(os.environ.get("TENFOLD_KILLS", "4"))


def text(number: int, edition: int) -> bytes:
    rng = random.Random(f"{number}-{edition}")
    lines = [f"Ship {number} edition {edition} met buoy {rng.randint(0, 10**9)} at noon." for _ in range(160)]
    return f"# Ship {number}\n\n{chr(10).join(lines)}".encode()


def test_kills_lose_and_double_nothing(own_server: Any) -> None:
    rng = random.Random(7)
    own_server.start()
    kept: dict[str, tuple[str, int, int]] = {}  # id → (name, number, edition) that was accepted
    deleted: set[str] = set()
    for turn in range(KILLS):
        for step in range(3):
            number = turn * 3 + step
            try:
                if kept and rng.random() < 0.3:
                    victim = rng.choice(sorted(kept))
                    if httpx.delete(f"{own_server.url}/api/documents/{victim}", timeout=10).status_code == 204:
                        del kept[victim]
                        deleted.add(victim)
                elif kept and rng.random() < 0.3:
                    known = rng.choice(sorted(kept))
                    name, old, edition = kept[known]
                    assert own_server.upload(name, text(old, edition + 1))["id"] == known
                    kept[known] = (name, old, edition + 1)
                else:
                    name = f"ship {number}.md"
                    kept[own_server.upload(name, text(number, 1))["id"]] = (name, number, 1)
            except httpx.HTTPError:
                raise AssertionError("the server was gone before it was killed") from None
        time.sleep(rng.uniform(0.0, 1.5))
        own_server.kill()
        own_server.start()
    for document_id, (_, number, edition) in kept.items():
        document = own_server.wait_document(document_id, timeout=120)
        assert document["state"] == "ready", document["reason"]
        assert f"Ship {number} edition {edition} " in " ".join(chunk["text"] for chunk in document["chunks"])
    for _ in range(100):
        alive = {row["id"] for row in httpx.get(f"{own_server.url}/api/documents").json()["data"]}
        if not alive & deleted:
            break
        time.sleep(0.1)
    assert alive == set(kept)
    total = httpx.get(f"{own_server.url}/api/search", params={"q": "ship", "mode": "dense"}, timeout=30).json()["total"]
    time.sleep(1)
    own_server.stop()
    consistent(own_server.data_dir, total, set(kept))


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
