"""Money: saved is what reading would have cost, every request is a row, and every surface shows the same sums."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlmodel import select
from tokenizers import Tokenizer

from backend.engine.messages import BATCH, REALTIME, Stats
from backend.engine.messages import Usage as EngineUsage
from backend.errors import UnavailableError
from backend.knowledge.embeddings import EmbeddingService
from backend.metering.ledger import Asked
from backend.metering.rate import TokenRate
from backend.models.checkpoint import resolve
from backend.packaged import EMBEDDING_MODEL
from backend.store.tables.answers import Answer
from backend.store.tables.usage import Usage
from tests.generation.conftest import Room

PER_SECOND = 1.0  # the rooms' price is 3,600 dollars an hour


def usage(prompt: int, cached: int, output: int, prefill: float, decode: float) -> EngineUsage:
    now = time.monotonic()
    return EngineUsage(prompt, cached, output, prefill, decode, now - 2, now - 1.5, now - 1, now, "bf16")


def asked(number: int = 0, source: str = "api", path: str = REALTIME) -> Asked:
    return Asked(f"r{number}", source, path, "model")


def stored(room: Room) -> list[Usage]:
    assert room.ledger.flush()
    with room.database.session() as session:
        return list(session.exec(select(Usage)).all())


@pytest.fixture
def embeddings(room: Room, cache_dir: Path) -> EmbeddingService:
    tokenizer = Tokenizer.from_file(str(resolve(EMBEDDING_MODEL, cache_dir) / "tokenizer.json"))
    return EmbeddingService(room.engine, lambda: tokenizer, room.database, room.ledger, "embedder")  # type: ignore[arg-type]


def test_a_lone_chat_saves_what_reading_its_cached_tokens_takes(room: Room) -> None:
    # As measured: 0.28 ms to read a token among many, 5.9 ms to write one alone.
    room.ledger.account(usage(1500, 0, 128, 1500 * 0.00028, 127 * 0.0059))
    again = room.ledger.account(usage(1500, 1400, 128, 100 * 0.00030, 127 * 0.0059))
    assert again.saved == pytest.approx(1400 * 0.00028 * PER_SECOND, rel=0.05)
    assert again.cost == pytest.approx((100 * 0.00030 + 127 * 0.0059) * PER_SECOND)


def test_the_rate_of_reading_holds_no_decode_and_no_tiny_prompts(room: Room) -> None:
    room.ledger.account(usage(1400, 1399, 100, 0.0059, 0.59))
    nothing_read_yet = room.ledger.account(usage(1400, 1392, 100, 0.0065, 0.59))
    assert nothing_read_yet.saved == 0.0, "priced at a rate that nobody measured"


def test_a_rate_follows_the_latest_work_token_by_token() -> None:
    rate = TokenRate()
    assert rate.seconds_per_token == 0
    rate.learn(1.0, 1000)
    rate.learn(0.1, 10)
    assert rate.seconds_per_token == pytest.approx(1.1 / 1010, rel=0.01)
    for _ in range(200):
        rate.learn(2.0, 1000)
    assert rate.seconds_per_token == pytest.approx(0.002, rel=0.01)


def test_the_ledgers_sums_are_the_counters(room: Room) -> None:
    for number in range(20):
        room.ledger.record(asked(number), usage(200, 16 * number, 10, 0.05, 0.06), outcome="stop", switches={})
    room.ledger.record_answer(asked(20), Answer(key="k", token_ids=[1, 2], compute_seconds=0.5), latency=0.01)
    room.ledger.record_embedding(
        asked(21), computed_tokens=100, reused_tokens=50, seconds=0.2, latency=0.3, failed=False
    )
    room.ledger.record_failure(asked(22), prompt_tokens=9, latency=0.1)
    room.ledger.record_reply(asked(23), latency=0.1)
    rows, totals = stored(room), room.ledger.totals()
    labels = {"source": "api", "model": "model"}
    for name in ("cost", "saved"):
        counter = room.metrics.registry.get_sample_value(f"tenfold_{name}_dollars_total", labels)
        assert counter == pytest.approx(sum(getattr(row, name) for row in rows), rel=1e-12)
        assert getattr(totals, name) == pytest.approx(counter, rel=1e-12)
    assert totals.requests == len(rows) == 24
    assert totals.reused_tokens == 50 and totals.cached_tokens == sum(16 * n for n in range(20))


def test_an_embedding_is_a_row_of_its_own_path_and_id(room: Room, embeddings: EmbeddingService) -> None:
    embeddings.embed(["one text", "another text"], source="api")
    embeddings.embed(["one text", "a third"], source="job", path=BATCH)
    first, second = stored(room)
    assert (first.kind, first.path, first.source, first.outcome) == ("embed", REALTIME, "api", "stop")
    assert (second.path, second.source) == (BATCH, "job") and room.engine.embedded == [REALTIME, BATCH]
    assert len({first.request_id, second.request_id}) == 2 and len(first.request_id) == 32
    assert first.cached_tokens == 0 < second.cached_tokens and second.saved > 0
    cost = room.metrics.registry.get_sample_value("tenfold_cost_dollars_total", {"source": "api", "model": "embedder"})
    assert cost == pytest.approx(first.cost) and first.cost > 0


def test_a_failed_embedding_is_a_row_too(room: Room, embeddings: EmbeddingService) -> None:
    room.engine.down = True
    with pytest.raises(UnavailableError):
        embeddings.embed(["one text"], source="api")
    (row,) = stored(room)
    assert (row.outcome, row.cost) == ("error", 0)


def test_asking_again_reads_no_sums(room: Room, embeddings: EmbeddingService) -> None:
    embeddings.embed(["one text"], source="api")
    assert room.ledger.flush()
    statements: list[str] = []

    def note(_c: Any, _k: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(room.database.engine, "before_cursor_execute", note)
    embeddings.embed(["one text"], source="api")
    assert room.ledger.flush()
    assert statements and not [s for s in statements if "sum(" in s.lower()]


def test_prompt_tokens_count_as_vllm_counts_them(room: Room) -> None:
    zero = dict.fromkeys(
        ("nonce", "uptime", "busy_seconds", "steps", "running", "waiting_realtime", "waiting_batch", "kv_free",
         "kv_cached", "kv_used", "preemptions", "drafted_tokens", "accepted_tokens", "embedded_texts",
         "embedding_seconds", "memory_bytes"), 0,
    )  # fmt: skip
    room.engine.stats = Stats(**zero, prompt_tokens=100, cached_tokens=1400, output_tokens=9, variant="bf16")  # type: ignore[assignment]
    value = room.metrics.registry.get_sample_value
    assert value("vllm:prompt_tokens_total") == value("vllm:prefix_cache_queries_total") == 1500
    assert value("vllm:prompt_tokens_cached_total") == value("vllm:prefix_cache_hits_total") == 1400


def test_windows_are_found_by_an_index(room: Room) -> None:
    with room.database.engine.connect() as connection:
        plan = connection.exec_driver_sql(
            "EXPLAIN QUERY PLAN SELECT * FROM usage WHERE kind = 'generate' AND finished >= 1 ORDER BY finished"
        ).all()
    assert "ix_usage_kind_finished" in str(plan) and "TEMP B-TREE" not in str(plan)


def test_the_embedding_rate_is_known_right_after_a_start(room: Room) -> None:
    from backend.metering.ledger import Ledger

    room.ledger.record_embedding(
        asked(), computed_tokens=100, reused_tokens=0, seconds=0.2, latency=0.2, failed=False
    )
    assert room.ledger.flush()
    later = Ledger(room.database, room.ledger._prices, room.metrics)
    assert later.embedding_rate() == pytest.approx(0.002)
