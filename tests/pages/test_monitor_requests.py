"""What Monitor says of a request is what the ledger has of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from streamlit.testing.v1 import AppTest

from backend.metering.booking import Batch, store
from backend.metering.entry import SECOND, Entry
from backend.metering.queries import LedgerQueries
from backend.store.database import Database
from backend.store.tables.usage import Outcome, UsageKind


def test_a_requests_id_is_shown_as_it_was_given(tmp_path: Path) -> None:
    def view(*given: object) -> None:  # run by its source alone
        from pages.drawing.monitor_requests import way

        way(*given)  # type: ignore[arg-type]

    database = Database(f"sqlite:///{tmp_path / 'x.sqlite3'}")
    database.migrate()
    name = "my-request_1.a-00ff"
    entry = Entry(name, UsageKind.GENERATE, "api", "realtime", "m", Outcome.STOP, SECOND, 2 * SECOND, 1, 0)
    with database.session() as session:
        store(session, Batch((entry,)))
    runtime = SimpleNamespace(ledger=SimpleNamespace(queries=LedgerQueries(database, 90)))
    page = AppTest.from_function(view, args=(runtime, name)).run(timeout=30)
    assert not page.exception and page.markdown[0].value == f"##### Request `{name}`"
    database.close()
