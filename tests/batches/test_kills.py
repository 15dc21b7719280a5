"""A process killed in the middle of a batch: what was answered stays, and is neither asked nor counted twice.

Four kills here; TENFOLD_KILLS=50 for as many as the README reports.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlmodel import select

from backend.batches import runner
from backend.store.database import Database
from backend.store.tables.batches import BatchResult, BatchStatus
from tests.batches.standin import Bench, lines
from tests.conftest import ROOT, until
from tests.jobs.standin import StandIn

KILLS = max(int(os.environ.get("TENFOLD_KILLS", "4")), 4)
LINES = 1000 * KILLS


def stored(database: Database, batch_id: str) -> dict[int, str]:
    with database.session() as session:
        query = select(BatchResult.number, BatchResult.text).where(BatchResult.batch_id == batch_id)
        return {number: text for number, text in session.exec(query)}


@pytest.mark.timeout(300 + 30 * KILLS)
def test_kills_lose_nothing_and_double_nothing(tmp_path: Path, database: Database) -> None:
    log, rng = tmp_path / "asked.txt", random.Random(3)
    bench = Bench(tmp_path, database, StandIn())  # never started: it makes the batch, and looks on
    batch = bench.create(lines(*(f"prompt {i}" for i in range(LINES))))

    def serve() -> subprocess.Popen[bytes]:
        command = [
            sys.executable, "-m", "tests.batches.standin", str(tmp_path), str(database.engine.url.database), str(log)
        ]
        return subprocess.Popen(command, cwd=ROOT)

    def asked() -> list[str]:
        return log.read_text().splitlines() if log.exists() else []

    before: dict[int, str] = {}
    for kill in range(KILLS):
        seen, process = len(asked()), serve()
        try:
            if kill == 0:  # while its file is checked, or not even looked at
                time.sleep(rng.uniform(0.0, 2.0))
            else:
                goal = len(before) + 100
                until(lambda goal=goal: bench.now(batch).completed >= goal, "results are stored")  # type: ignore[misc]
                time.sleep(rng.uniform(0.0, 0.3))
        finally:
            process.kill()
            process.wait()
        after, now = stored(database, batch.id), bench.now(batch)
        assert now.open, "it had ended before it was killed"
        assert now.completed == len(after), "what is counted is not what is stored"
        assert {number: after[number] for number in before} == before, "an answer was lost or changed"
        twice = {f"prompt {number - 1}" for number in before} & set(asked()[seen:])
        assert not twice, "what was answered was asked again"
        before = after
    process = serve()
    try:
        ended = bench.ended(batch, 120 + 5 * KILLS)
    finally:
        process.kill()
        process.wait()
    assert (ended.status, ended.total, ended.completed, ended.failed) == (BatchStatus.COMPLETED, LINES, LINES, 0)
    rows = bench.content(ended.output_file_id)
    assert [row["custom_id"] for row in rows] == [f"line {i}" for i in range(LINES)]
    assert all(row["response"]["body"]["text"].startswith(f"prompt {i}, ") for i, row in enumerate(rows))
    lost = len(asked()) - LINES
    assert lost <= KILLS * (runner.WINDOW + runner.TOGETHER), "more than what was open was asked again"
    assert ended.output_tokens == 2 * LINES, "an answer was counted twice"
    left = {path.name for path in (tmp_path / "api-files").iterdir()}
    assert len(left) == 2, "bytes are left of a result file that was being written"
