"""Texts that begin with others are found alike on every database, whatever language it sorts in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backend.metering.booking import Batch, store
from backend.metering.entry import SECOND, Entry
from backend.metering.queries import LedgerQueries
from backend.store.database import Database
from backend.store.tables.usage import Outcome, UsageKind

NAMES = ["req-a", "req-a1", "REQ-A2", "req-á", "reqa3", "req-b", "re", "req-a_\U0010ffff", "req-a-9", "req-%",
         "x\ud7ff1"]  # fmt: skip
ENGLISH = ("-T", "template0", "-E", "UTF8", "--lc-collate=C", "--lc-ctype=C", "--locale-provider=icu",
           "--icu-locale=en-US")  # fmt: skip


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'x.sqlite3'}"
    else:
        make: Callable[..., str] = request.getfixturevalue("postgres")
        url = make("beginnings", *ENGLISH)
    database = Database(url)
    database.migrate()
    yield database
    database.close()


def test_a_request_is_found_by_the_beginning_of_its_id(database: Database) -> None:
    entries = [
        Entry(name, UsageKind.GENERATE, "api", "realtime", "m", Outcome.STOP, SECOND, number * SECOND, 1, 0)
        for number, name in enumerate(NAMES, 1)
    ]
    with database.session() as session:
        store(session, Batch(tuple(entries)))
    queries = LedgerQueries(database, 90)
    for search in ("req-a", "REQ", "r", "req-a_", "req-a_\U0010ffff", "req-%", "x\ud7ff", "req-á", "nothing"):
        found = {one.entry.request_id for one in queries.requests(search=search)}
        assert found == {name for name in NAMES if name.startswith(search)}, search
