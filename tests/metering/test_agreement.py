"""The ledger's entries and sums, `/metrics` and what the API says of its use are one, over a thousand requests."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlmodel import select
from tokenizers import Tokenizer

from backend.api.openai.usage import cost, usage
from backend.engine.messages import SamplingParams
from backend.engine.messages import Usage as EngineUsage
from backend.errors import UnavailableError
from backend.generation.request import TextRequest
from backend.generation.stream import Generation
from backend.knowledge.embeddings import Embedded, EmbeddingService
from backend.metering.entry import DOLLAR, SECOND
from backend.models.checkpoint import resolve
from backend.packaged import EMBEDDING_MODEL
from backend.store.tables.usage import EntryRow, Population
from tests.conftest import until
from tests.generation.conftest import Room

REQUESTS = 1000


class Traffic:
    """Requests of every kind, one after the other, each ended as chance has it."""

    def __init__(self, room: Room, embeddings: EmbeddingService) -> None:
        self.room, self.embeddings, self.rng = room, embeddings, random.Random(3)
        self.generations: list[Generation] = []
        self.embedded: list[Embedded] = []
        self.failed_embeddings = 0

    def one(self) -> None:
        kinds: list[Callable[[], None]] = [self.answered, self.answered, self.answered, self.failed, self.cancelled,
                                           self.repeated, self.replied, self.embed, self.embed_nothing]
        self.rng.choice(kinds)()

    def begin(self, **more: object) -> Generation:
        source = self.rng.choice(["console", "api", "job", "lab"])
        request = TextRequest(text="Hello " * self.rng.randrange(1, 9), source=source, **more)  # type: ignore[arg-type]
        generation = self.room.service.start(self.room.service.prepare(request))
        self.generations.append(generation)
        return generation

    def sampled(self) -> Generation:
        return self.begin(sampling=SamplingParams(temperature=1.0))

    def answered(self) -> None:
        self.room.engine.answer(self.sampled().id, " Yes" * self.rng.randrange(1, 9))

    def failed(self) -> None:
        now, taken = time.monotonic(), self.rng.random()
        known = EngineUsage(9, 4, 2, taken, taken / 3, now - 2, now - 1, now - 0.5, now, "bf16")
        self.room.engine.fail(self.sampled().id, "It broke.", "internal", self.rng.choice([None, known]))

    def cancelled(self) -> None:
        self.room.service.cancel(self.sampled())

    def repeated(self) -> None:
        generation = self.begin()
        if not generation.ended:
            self.room.engine.answer(generation.id, " Always the same.")

    def replied(self) -> None:
        self.begin(reply="I don't know.")

    def embed(self) -> None:
        texts = [f"text {self.rng.randrange(50)}" for _ in range(self.rng.randrange(1, 5))]
        self.embedded.append(self.embeddings.embed(texts, source=self.rng.choice(["api", "ingest"])))

    def embed_nothing(self) -> None:
        self.room.engine.down = True
        with pytest.raises(UnavailableError):
            self.embeddings.embed([f"new {self.rng.random()}"], source="api")
        self.room.engine.down = False
        self.failed_embeddings += 1


def test_a_thousand_mixed_requests_are_the_same_on_every_surface(room: Room, cache_dir: Path) -> None:
    tokenizer = Tokenizer.from_file(str(resolve(EMBEDDING_MODEL, cache_dir) / "tokenizer.json"))
    embeddings = EmbeddingService(room.engine, lambda: tokenizer, room.database, room.ledger, "embedder")  # type: ignore
    room.ledger.open(thread=False)
    traffic = Traffic(room, embeddings)
    for number in range(REQUESTS):
        traffic.one()
        if number % 100 == 0:
            room.ledger.tick()
    until(lambda: all(generation.ended for generation in traffic.generations), "everything has ended")
    assert room.ledger.flush(60)

    with room.database.session() as session:
        rows = [row for row in session.exec(select(EntryRow)) if row.population != Population.IDLE]
    sums, value = room.ledger.queries.sums(), counters(room)
    said = [usage([generation], 1) for generation in traffic.generations]
    spent = sum(cost([generation]) for generation in traffic.generations) + sum(e.cost for e in traffic.embedded)
    generated = [row for row in rows if row.population != Population.EMBEDDING]
    failed = [row for row in generated if row.state == "failed"]

    assert len(rows) == sums.requests == REQUESTS
    assert sums.failed == len(failed) + traffic.failed_embeddings and len(failed) > 50 < sums.cancelled
    assert sums.repeated > 50 and value("vllm:request_success_total") == len(generated)
    assert sums.cost == sum(row.cost for row in rows) == round(value("tenfold_cost_dollars_total") * DOLLAR)
    assert round(spent * DOLLAR) == sums.cost - sum(row.cost for row in failed)
    saved, lost = value("tenfold_saved_dollars_total"), value("tenfold_speculation_loss_dollars_total")
    assert sums.avoided == round((saved - lost) * DOLLAR) > 0
    assert sums.compute_ns == sum(row.compute_ns for row in rows)
    assert sums.compute_ns == round(value("tenfold_compute_seconds_total") * SECOND)
    assert sums.prompt_tokens == value("vllm:prompt_tokens_total") == value("vllm:prompt_tokens_by_source_total")
    assert sums.prompt_tokens == value("vllm:request_prompt_tokens_sum")
    assert value("tenfold_requests_total") == value("gen_ai_server_request_duration_seconds_count") == REQUESTS
    answered = sum(row.state == "ok" and row.outcome != "reply" for row in generated)
    assert answered == value("vllm:e2e_request_latency_seconds_count")
    assert answered == value("vllm:time_to_first_token_seconds_count")
    phases = value("tenfold_phase_cost_dollars_total")
    assert round(phases * DOLLAR) == sum(row.cost for row in generated)
    assert sums.output_tokens == value("vllm:generation_tokens_total")
    assert sums.cached_tokens == value("vllm:prompt_tokens_cached_total")
    prompts = sum(one["prompt_tokens"] for one in said) + sum(row.prompt_tokens for row in failed)
    assert sums.prompt_tokens + sums.repeated_prompt_tokens == prompts
    written = sum(one["completion_tokens"] for one in said) + sum(row.output_tokens for row in failed)
    assert sums.output_tokens + sums.repeated_output_tokens == written
    assert sums.embedded_tokens + sums.reused_tokens == sum(each.tokens for each in traffic.embedded)
    assert sums.embedded_tokens + sums.reused_tokens == value("tenfold_embedding_tokens_total")
    assert sums.reused_tokens == value("tenfold_embedding_tokens_reused_total")
    assert sums.repeated_prompt_tokens + sums.repeated_output_tokens == value("tenfold_repeated_tokens_total")
    everything = (
        sums.prompt_tokens + sums.output_tokens + sums.repeated_prompt_tokens + sums.repeated_output_tokens
        + sums.embedded_tokens + sums.reused_tokens
    )  # fmt: skip
    assert value("gen_ai_client_token_usage_sum") == everything
    assert sums.idle_ns == round(value("tenfold_idle_seconds_total") * SECOND)
    assert sums.idle_cost == round(value("tenfold_idle_cost_dollars_total") * DOLLAR)
    by_minute = [bucket.sums for bucket in room.ledger.queries.buckets(time.time() - 3600, None, 60)]
    assert sum(each.cost for each in by_minute) == sums.cost and sum(each.requests for each in by_minute) == REQUESTS
    balance = room.ledger.queries.balance()
    assert balance.booked == sums.cost + sums.idle_cost


def counters(room: Room) -> Callable[[str], float]:
    """What a scrape sums a counter to, over all its labels."""
    families = list(room.metrics.registry.collect())

    def value(name: str) -> float:
        return sum(s.value for family in families for s in family.samples if s.name == name)

    return value
