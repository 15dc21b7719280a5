"""Prometheus metrics. Names follow OpenTelemetry's GenAI conventions and vLLM where they have one."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from backend.engine.protocol import EngineClient, Phase
from backend.metering.entry import DOLLAR, SECOND, Entry
from backend.store.tables.usage import State, UsageKind

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class Metrics:
    """Sums and histograms of the ledger's entries, gauges and counters read from the engine when asked."""

    def __init__(self, engine: EngineClient) -> None:
        self.registry = CollectorRegistry()
        labels = ("source", "model")
        self._ttft = Histogram(
            "gen_ai_server_time_to_first_token_seconds", "Arrival to first token.", labels,
            buckets=SECONDS, registry=self.registry,
        )
        self._tpot = Histogram(
            "gen_ai_server_time_per_output_token_seconds", "Seconds per token after the first.", labels,
            buckets=PER_TOKEN, registry=self.registry,
        )
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds", "Arrival to last token.", labels,
            buckets=SECONDS, registry=self.registry,
        )
        self._entries = _EntryCollector()
        self.registry.register(self._entries)
        self.registry.register(_EngineCollector(engine))
        ProcessCollector(registry=self.registry)  # the web process: memory, processor time, open files

    def observe(self, entry: Entry) -> None:
        """Count one entry."""
        self._entries.add(entry)
        if entry.kind is not UsageKind.GENERATE or entry.state is State.FAILED:
            return  # how soon something failed says nothing of how long people wait
        labels = {"source": entry.source, "model": entry.model}
        if entry.ttft_ns is not None:
            self._ttft.labels(**labels).observe(entry.ttft_ns / SECOND)
        if entry.tpot_ns is not None:
            self._tpot.labels(**labels).observe(entry.tpot_ns / SECOND)
        self._duration.labels(**labels).observe(entry.latency_ns / SECOND)

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)


COUNTERS: tuple[tuple[str, str, Callable[[Entry], int], int], ...] = (
    ("tenfold_cost_dollars", "Cost of requests.", lambda e: e.cost, DOLLAR),
    ("tenfold_saved_dollars", "Cost that caches and guesses avoided.", lambda e: e.avoided, DOLLAR),
    ("tenfold_compute_seconds", "Machine time of requests.", lambda e: e.compute_ns, SECOND),
)
"""Of every entry: name, text, what is summed in integers, and what one of the shown unit is of them."""
TOKENS: tuple[tuple[str, str, Callable[[Entry], int]], ...] = (
    ("vllm:prompt_tokens", "Prompt tokens, cached ones too.", lambda e: e.prompt_tokens),
    ("vllm:prompt_tokens_cached", "Prompt tokens found in a cache.", lambda e: e.cached_tokens),
    ("vllm:generation_tokens", "Tokens generated.", lambda e: e.output_tokens),
    ("vllm:prefix_cache_queries", "Prompt tokens asked for.", lambda e: e.prompt_tokens),
    ("vllm:prefix_cache_hits", "Prompt tokens found in the cache.", lambda e: e.cached_tokens),
    ("vllm:spec_decode_num_draft_tokens", "Tokens guessed.", lambda e: e.drafted_tokens),
    ("vllm:spec_decode_num_accepted_tokens", "Guesses that were right.", lambda e: e.accepted_tokens),
)
"""Of entries that went to the language model."""


class _EntryCollector(Collector):
    """Sums of entries since the start, in the integers that the ledger sums, so that both agree to the last digit."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: dict[str, dict[tuple[str, ...], int]] = defaultdict(lambda: defaultdict(int))

    def add(self, entry: Entry) -> None:
        """Count one entry."""
        with self._lock:
            for name, _, value, _ in COUNTERS:
                self._sums[name][entry.source, entry.model] += value(entry)
            if entry.kind is UsageKind.EMBED:
                self._sums["tenfold_embedding_tokens"][entry.source, entry.model] += entry.prompt_tokens
                return
            self._sums["vllm:request_success"][(entry.finish_reason,)] += 1
            if entry.state is not State.CACHED:
                for name, _, value in TOKENS:
                    self._sums[name][(entry.model,)] += value(entry)

    def collect(self) -> Iterator[Metric]:
        """Yield every sum."""
        by_source, embedded = ("source", "model"), "Prompt tokens of embeddings, known ones too."
        named: list[tuple[str, str, tuple[str, ...], int]]
        named = [(name, text, by_source, unit) for name, text, _, unit in COUNTERS]
        named += [(name, text, ("model_name",), 1) for name, text, _ in TOKENS]
        named += [("vllm:request_success", "Requests by how they ended.", ("finished_reason",), 1)]
        named += [("tenfold_embedding_tokens", embedded, by_source, 1)]
        for name, text, labels, unit in named:
            family = CounterMetricFamily(name, text, labels=labels)
            with self._lock:
                sums = dict(self._sums[name])
            for values, total in sums.items():
                family.add_metric(list(values), total / unit)
            yield family


class _EngineCollector(Collector):
    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """Yield the engine's latest statistics."""
        yield GaugeMetricFamily(
            "tenfold_engine_up", "1 while the engine is ready.", value=float(self._engine.state.phase is Phase.READY)
        )
        yield CounterMetricFamily(
            "tenfold_engine_restarts", "Times the engine was brought back.", value=self._engine.state.restarts
        )
        stats = self._engine.stats
        if stats is None:
            return
        blocks = max(stats.kv_free + stats.kv_cached + stats.kv_used, 1)
        gauges: list[tuple[str, str, Callable[[], float]]] = [
            ("vllm:num_requests_running", "Sequences in the batch.", lambda: stats.running),
            (
                "vllm:num_requests_waiting",
                "Sequences waiting.",
                lambda: stats.waiting_realtime + stats.waiting_batch,
            ),
            ("vllm:kv_cache_usage_perc", "Share of KV blocks in use, 0 to 1.", lambda: stats.kv_used / blocks),
            ("tenfold_engine_memory_bytes", "Resident memory of the engine.", lambda: stats.memory_bytes),
        ]
        for name, text, value in gauges:
            yield GaugeMetricFamily(name, text, value=float(value()))
        counters = [
            ("vllm:num_preemptions", "Sequences sent back to wait.", stats.preemptions),
            ("tenfold_engine_busy_seconds", "Seconds the engine computed.", stats.busy_seconds),
            ("tenfold_engine_uptime_seconds", "Seconds since it was ready.", stats.uptime),
        ]
        for name, text, number in counters:
            yield CounterMetricFamily(name, text, value=float(number))
