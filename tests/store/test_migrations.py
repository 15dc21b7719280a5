"""The migrations build exactly the tables that the code describes, on a new file and on an old one."""

from __future__ import annotations

from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlmodel import SQLModel, select

from backend.store.database import Database
from backend.store.tables.chats import Conversation


def test_migrations_and_tables_agree(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite3'}")
    database.migrate()
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), SQLModel.metadata) == []


def test_migrating_again_changes_nothing(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite3'}")
    database.migrate()
    with database.session() as session:
        session.add(Conversation(title="kept"))
    Database(database.url).migrate()
    with database.session() as session:
        assert session.exec(select(Conversation.title)).all() == ["kept"]


def test_wal_and_foreign_keys_are_on(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite3'}")
    database.migrate()
    with database.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_documents_of_the_first_schema_are_their_own_first_version(tmp_path: Path) -> None:
    from backend.store.tables.documents import Chunk, Document, DocumentVersion

    database = Database(f"sqlite:///{tmp_path / 'old.sqlite3'}")
    database.migrate("0001")
    with database.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO document (id, name, sha256, size, state, reason, progress, chunk_count, embedded, reused, "
            "seconds, created, updated) VALUES ('d', 'a.md', 'x', 5, 'ready', '', 1, 1, 1, 0, 1, 1, 1)"
        )
        connection.exec_driver_sql(
            "INSERT INTO chunk (id, document_id, position, text, text_hash, tokens, chunker) "
            "VALUES ('c', 'd', 0, 'text', 'h', 3, 'old')"
        )
    database.migrate()
    with database.session() as session:
        document = session.exec(select(Document)).one()
        assert (document.version, document.build, document.latest) == (1, 1, 1)
        assert session.exec(select(DocumentVersion.sha256)).all() == ["x"]
        assert session.exec(select(Chunk.build)).all() == [1]
        session.add(Chunk(document_id="d", build=2, position=0, text="again", text_hash="i", tokens=3, chunker="new"))


def test_keys_from_before_roles_keep_what_they_could_do(tmp_path: Path) -> None:
    from backend.store.tables.access import ApiKey

    database = Database(f"sqlite:///{tmp_path / 'old.sqlite3'}")
    database.migrate("0002")
    with database.engine.begin() as connection:
        for number, name in enumerate(["first", "second"]):
            connection.exec_driver_sql(
                f"INSERT INTO api_key (id, name, prefix, digest, created) VALUES ('{name}', '', '', '{name}', {number})"
            )
        connection.exec_driver_sql("INSERT INTO conversation (id, title, created, updated) VALUES ('c', 'old', 1, 1)")
    database.migrate()
    with database.session() as session:
        keys = {key.id: (key.role, key.tenant) for key in session.exec(select(ApiKey)).all()}
        assert keys == {"first": ("admin", ""), "second": ("admin", "second")}
        assert session.exec(select(Conversation.tenant)).all() == [""], "old chats stay with who set the server up"


def test_messages_that_two_tabs_doubled_come_one_after_the_other(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'old.sqlite3'}")
    database.migrate("0002")
    with database.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO conversation (id, title, created, updated) VALUES ('c', 'x', 1, 1), ('d', 'y', 1, 1)"
        )
        for row in ("('a', 'c', 0, 1)", "('b', 'c', 0, 2)", "('e', 'c', 1, 3)", "('f', 'c', 1, 4)", "('g', 'd', 5, 1)"):
            connection.exec_driver_sql(
                "INSERT INTO message (id, conversation_id, position, created, role, text, state, error, details) "
                f"SELECT *, 'user', 'x', 'done', '', '{{}}' FROM (VALUES {row})"
            )
    database.migrate()
    with database.engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT id, position FROM message ORDER BY conversation_id, position").all()
    assert [tuple(row) for row in rows] == [("a", 0), ("b", 1), ("e", 2), ("f", 3), ("g", 5)]


def test_prompts_become_rows_and_a_job_keeps_one_open_run(tmp_path: Path) -> None:
    from sqlalchemy import inspect

    from backend.store.tables.jobs import Job, JobPrompt, JobResult, JobRun

    database = Database(f"sqlite:///{tmp_path / 'old.sqlite3'}")
    database.migrate("0004")
    with database.engine.begin() as connection:
        for job in "ab":
            connection.exec_driver_sql(
                "INSERT INTO job (id, name, prompts, system, max_tokens, temperature, documents, cron, created) "
                f"VALUES ('{job}', '{job}', '[\"{job} 0\", \"{job} 1\"]', '', 4, 0, 0, '0 2 * * *', 1)"
            )
        for row in ("('new', 'queued', 1, NULL)", "('far', 'running', 2, NULL)", "('old', 'done', 3, 4)"):
            connection.exec_driver_sql(
                "INSERT INTO job_run (id, state, created, finished, job_id, total, reason) "
                f"SELECT *, 'a', 2, '' FROM (VALUES {row})"
            )
        for position, error in ((0, ""), (1, "bad")):
            connection.exec_driver_sql(
                "INSERT INTO job_result (run_id, position, text, error, finish_reason, prompt_tokens, output_tokens, "
                f"cost) VALUES ('far', {position}, '', '{error}', '', 1, 2, 0.5)"
            )
        connection.exec_driver_sql("CREATE TABLE apscheduler_jobs (id VARCHAR PRIMARY KEY)")
    database.migrate()
    with database.session() as session:
        prompts = session.exec(select(JobPrompt).order_by(JobPrompt.job_id, JobPrompt.position)).all()  # type: ignore
        assert [(p.job_id, p.position, p.text) for p in prompts] == [
            ("a", 0, "a 0"), ("a", 1, "a 1"), ("b", 0, "b 0"), ("b", 1, "b 1"),
        ]  # fmt: skip
        assert session.exec(select(Job.total, Job.cron, Job.next_run)).all() == [(2, "0 2 * * *", None)] * 2
        runs = {run.id: run for run in session.exec(select(JobRun)).all()}
        assert {name: str(run.state) for name, run in runs.items()} == {
            "new": "cancelled", "far": "running", "old": "done",
        }  # fmt: skip
        assert (runs["far"].done, runs["far"].failed, runs["far"].cost, runs["far"].output_tokens) == (2, 1, 1.0, 4)
        assert runs["far"].finished is None and runs["new"].finished and "was going on" in runs["new"].reason
        assert len(session.exec(select(JobResult)).all()) == 2
    assert not inspect(database.engine).has_table("apscheduler_jobs"), "schedules stand twice"


def test_what_was_paid_before_stays_on_the_ledger_to_the_nano_dollar(tmp_path: Path) -> None:
    from backend.metering.ledger import Ledger
    from backend.metering.metrics import Metrics
    from backend.metering.prices import Prices
    from backend.settings import Settings
    from backend.store.tables.usage import EntryRow, SwitchState

    database = Database(f"sqlite:///{tmp_path / 'old.sqlite3'}")
    database.migrate("0006")
    columns = (
        "request_id, source, kind, path, model, variant, outcome, arrived, finished, queue_seconds, ttft, latency, "
        "tpot, prompt_tokens, cached_tokens, output_tokens, compute_seconds, price_per_hour, cost, saved, switches"
    )
    when = "1700000000.5, 1700000002.75, 0.25, 1.0, 2.25, 0.1"
    with database.engine.begin() as connection:
        for row in (
            f"('r', 'console', 'generate', 'realtime', 'm', 'int8', 'stop', {when}, 9, 4, 5, 1.5, 0.1, 0.000041667, "
            "0.00000125, '{\"prefix_cache\": true}')",
            f"('e', 'ingest', 'embed', 'batch', 'm', '', 'error', {when}, 9, 4, 0, 0.5, 0.1, 0.000013889, 0.5, '{{}}')",
        ):
            connection.exec_driver_sql(f"INSERT INTO usage ({columns}) VALUES {row}")
    database.migrate()
    prices = Prices(Settings(data_dir=tmp_path), database)
    ledger = Ledger(database, prices, Metrics(None))  # type: ignore[arg-type]
    ledger.open(thread=False)
    ledger.close()
    assert database.writer.flush()
    with database.session() as session:
        first, second = session.exec(select(EntryRow).where(EntryRow.population != "idle")).all()
        assert (first.population, first.state, first.cost, first.avoided_prefix) == ("people", "ok", 41_667, 1250)
        assert abs(first.finished_ns - 1700000002750000000) < 1000  # what a float of the time can tell
        assert (first.ttft_ns, first.compute_ns) == (10**9, 1_500_000_000)
        assert (second.population, second.state, second.avoided_embedding) == ("embedding", "failed", 500_000_000)
        assert session.get(SwitchState, first.switches).switches == {"prefix_cache": True} and second.switches == ""
        assert prices.version(first.price_id).per_hour == 100_000_000
    sums, balance = ledger.queries.sums(), ledger.queries.balance()
    assert sums.cost == 41_667 + 13_889 and sums.requests == 2
    assert balance.due == balance.booked == sums.cost + sums.idle_cost
    database.close()
