"""Money: saved is what reading would have cost, every request is a row, and every surface shows the same sums."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlmodel import select
from tokenizers import Tokenizer

from backend.engine.messages import BATCH, REALTIME
from backend.engine.messages import Usage as EngineUsage
from backend.errors import UnavailableError
from backend.knowledge.embeddings import EmbeddingService
from backend.metering.entry import DOLLAR, SECOND, Asked
from backend.metering.rate import TokenRate
from backend.models.checkpoint import resolve
from backend.packaged import EMBEDDING_MODEL
from backend.store.tables.answers import Answer
from backend.store.tables.usage import EntryRow
from tests.generation.conftest import Room

PER_SECOND = 1.0  # the rooms' price is 3,600 dollars an hour


def usage(prompt: int, cached: int, output: int, prefill: float, decode: float) -> EngineUsage:
    now = time.monotonic()
    return EngineUsage(prompt, cached, output, prefill, decode, now - 2, now - 1.5, now - 1, now, "bf16")


def asked(number: int = 0, source: str = "api", path: str = REALTIME) -> Asked:
    return Asked(f"r{number}", source, path, "model")


def stored(room: Room) -> list[EntryRow]:
    assert room.ledger.flush()
    with room.database.session() as session:
        return list(session.exec(select(EntryRow)).all())


@pytest.fixture
def embeddings(room: Room, cache_dir: Path) -> EmbeddingService:
    tokenizer = Tokenizer.from_file(str(resolve(EMBEDDING_MODEL, cache_dir) / "tokenizer.json"))
    return EmbeddingService(room.engine, lambda: tokenizer, room.database, room.ledger, "embedder")  # type: ignore[arg-type]


def test_a_lone_chat_saves_what_reading_its_cached_tokens_takes(room: Room) -> None:
    # As measured: 0.28 ms to read a token among many, 5.9 ms to write one alone.
    room.ledger.record(asked(1), usage(1500, 0, 128, 1500 * 0.00028, 127 * 0.0059), outcome="stop")
    again = room.ledger.record(asked(2), usage(1500, 1400, 128, 100 * 0.00030, 127 * 0.0059), outcome="stop")
    assert again.saved == pytest.approx(1400 * 0.00028 * PER_SECOND, rel=0.05)
    assert again.cost == pytest.approx((100 * 0.00030 + 127 * 0.0059) * PER_SECOND)


def test_the_rate_of_reading_holds_no_decode_and_no_tiny_prompts(room: Room) -> None:
    room.ledger.record(asked(1), usage(1400, 1399, 100, 0.0059, 0.59), outcome="stop")
    nothing_read_yet = room.ledger.record(asked(2), usage(1400, 1392, 100, 0.0065, 0.59), outcome="stop")
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
        room.ledger.record(asked(number), usage(200, 16 * number, 10, 0.05, 0.06), outcome="stop")
    room.ledger.record_answer(asked(20), Answer(key="k", token_ids=[1, 2], compute_seconds=0.5), latency=0.01)
    room.ledger.record_embedding(asked(21), computed_tokens=100, reused_tokens=50, seconds=0.2, latency=0.3)
    room.ledger.record_failure(asked(22), prompt_tokens=9, latency=0.1)
    room.ledger.record_reply(asked(23), latency=0.1)
    rows, sums = stored(room), room.ledger.queries.sums()
    families = list(room.metrics.registry.collect())

    def value(name: str) -> float:
        return sum(sample.value for family in families for sample in family.samples if sample.name == name)

    assert round(value("tenfold_cost_dollars_total") * DOLLAR) == sums.cost == sum(row.cost for row in rows)
    assert round(value("tenfold_saved_dollars_total") * DOLLAR) == sums.avoided
    assert sums.requests == len(rows) == 24
    assert (sums.failed, sums.repeated, sums.reused_tokens) == (1, 1, 50)
    assert sums.cached_tokens == sum(16 * n for n in range(20)) == value("vllm:prompt_tokens_cached_total")


def test_what_a_request_that_failed_had_taken_is_its_cost(room: Room) -> None:
    taken = usage(200, 0, 3, 0.05, 0.06)
    account = room.ledger.record_failure(asked(), prompt_tokens=200, latency=2, error="out of memory", usage=taken)
    (row,) = stored(room)
    assert account.cost == pytest.approx(0.11) and row.cost == row.compute_ns == 110_000_000
    assert (row.outcome, row.finish_reason, row.error, row.state) == ("error", "error", "out of memory", "failed")


def test_the_switches_in_force_are_kept_once(room: Room) -> None:
    from backend.engine.switches import Switches

    one, other = Switches(), Switches(prefix_cache=False)
    for number, switches in enumerate([one, other, one, one]):
        who = Asked(f"r{number}", "api", REALTIME, "model", "key", "tenant", switches)
        room.ledger.record(who, usage(200, 0, 3, 0.05, 0.06), outcome="stop")
        assert room.ledger.flush()
    requests = [room.ledger.queries.request(f"r{number}") for number in range(4)]
    assert [request.switches["prefix_cache"] for request in requests] == [True, False, True, True]
    assert requests[0].entry.key_id == "key" and requests[0].price.per_hour == 3600 * DOLLAR
    assert len({request.entry.switches for request in requests}) == 2


def test_a_requests_way_is_its_time(room: Room) -> None:
    who = Asked("r", "api", REALTIME, "model", search_ns=SECOND // 2)
    room.ledger.record(who, usage(200, 0, 3, 0.05, 0.06), outcome="stop")
    assert room.ledger.flush()
    request = room.ledger.queries.request("r")
    steps = {step.name: step.seconds for step in request.way}
    assert steps == pytest.approx({"search": 0.5, "queue": 0.5, "prefill": 0.5, "decode": 1.0})


def test_an_embedding_is_a_row_of_its_own_path_and_id(room: Room, embeddings: EmbeddingService) -> None:
    embeddings.embed(["one text", "another text"], source="api")
    embeddings.embed(["one text", "a third"], source="job", path=BATCH)
    first, second = stored(room)
    assert (first.kind, first.path, first.source, first.outcome) == ("embed", REALTIME, "api", "stop")
    assert (second.path, second.source) == (BATCH, "job") and room.engine.embedded == [REALTIME, BATCH]
    assert len({first.request_id, second.request_id}) == 2 and len(first.request_id) == 32
    assert first.cached_tokens == 0 < second.cached_tokens and second.avoided_embedding > 0
    labels = {"source": "api", "model": "embedder", "path": REALTIME}
    cost = room.metrics.registry.get_sample_value("tenfold_cost_dollars_total", labels)
    assert round(cost * DOLLAR) == first.cost > 0


def test_a_failed_embedding_is_a_row_too(room: Room, embeddings: EmbeddingService) -> None:
    room.engine.down = True
    with pytest.raises(UnavailableError):
        embeddings.embed(["one text"], source="api")
    (row,) = stored(room)
    assert (row.outcome, row.cost) == ("error", 0) and "stopped" in row.error


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
    room.ledger.record(asked(), usage(1500, 1400, 9, 0.05, 0.06), outcome="stop")

    def value(name: str) -> float | None:
        return room.metrics.registry.get_sample_value(name, {"model_name": "model", "engine": "0"})

    assert value("vllm:prompt_tokens_total") == value("vllm:prefix_cache_queries_total") == 1500
    assert value("vllm:prompt_tokens_cached_total") == value("vllm:prefix_cache_hits_total") == 1400
    assert value("vllm:generation_tokens_total") == 9


def test_the_embedding_rate_is_known_right_after_a_start(room: Room) -> None:
    from backend.metering.ledger import Ledger

    room.ledger.record_embedding(asked(), computed_tokens=100, reused_tokens=0, seconds=0.2, latency=0.2)
    assert room.ledger.flush()
    later = Ledger(room.database, room.prices, room.metrics)
    assert later.embedding_rate() == pytest.approx(0.002)


def test_an_entry_that_cannot_be_stored_fails_alone(room: Room) -> None:
    room.ledger.record(asked(1), usage(200, 0, 3, 0.05, 0.06), outcome="stop")
    room.ledger.record(asked(2), usage(1 << 80, 0, 3, 0.05, 0.06), outcome="stop")
    room.ledger.record(asked(3), usage(200, 0, 3, 0.05, 0.06), outcome="stop")
    first, second, third = stored(room)
    assert (first.prompt_tokens, third.prompt_tokens, first.error, third.error) == (200, 200, "", "")
    assert second.request_id == "r2" and "could not be stored" in second.error
    assert (second.cost, second.compute_ns) == (first.cost, first.compute_ns) and second.prompt_tokens == 0
    assert room.ledger.unstored == 1 and room.database.writer.lost == 0
