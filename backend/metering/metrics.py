"""Prometheus metrics. Names follow OpenTelemetry's GenAI conventions and vLLM where they have one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from backend.engine.protocol import EngineClient, Phase
from backend.metering.account import Account

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class Metrics:
    """Histograms fed by the ledger, gauges and counters read from the engine when asked."""

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
        self._cost = Counter("tenfold_cost_dollars", "Cost of requests.", labels, registry=self.registry)
        self._saved = Counter("tenfold_saved_dollars", "Cost that caches saved.", labels, registry=self.registry)
        self._outcomes = Counter(
            "vllm:request_success", "Requests by how they ended.", ("finished_reason",), registry=self.registry
        )
        self.registry.register(_EngineCollector(engine))
        ProcessCollector(registry=self.registry)  # the web process: memory, processor time, open files

    def observe(self, account: Account, *, source: str, model: str, finished_reason: str | None) -> None:
        """Count one request that ended.

        Args:
            account: its times and money.
            source: who sent it.
            model: which model it asked.
            finished_reason: as vLLM has it: "stop", "length", "abort" or "error"; None for an embedding.
        """
        labels = {"source": source, "model": model}
        self._cost.labels(**labels).inc(account.cost)
        self._saved.labels(**labels).inc(account.saved)
        if finished_reason is None:
            return
        self._outcomes.labels(finished_reason=finished_reason).inc()
        if finished_reason == "error":  # how soon it failed says nothing of how long people wait
            return
        if account.ttft is not None:
            self._ttft.labels(**labels).observe(account.ttft)
        if account.tpot is not None:
            self._tpot.labels(**labels).observe(account.tpot)
        self._duration.labels(**labels).observe(account.latency)

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)


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
            ("vllm:prompt_tokens", "Prompt tokens, cached ones too.", stats.prompt_tokens + stats.cached_tokens),
            ("vllm:prompt_tokens_cached", "Prompt tokens found in a cache.", stats.cached_tokens),
            ("vllm:generation_tokens", "Tokens generated.", stats.output_tokens),
            ("vllm:prefix_cache_hits", "Prompt tokens found in the cache.", stats.cached_tokens),
            ("vllm:prefix_cache_queries", "Prompt tokens asked for.", stats.prompt_tokens + stats.cached_tokens),
            ("vllm:num_preemptions", "Sequences sent back to wait.", stats.preemptions),
            ("vllm:spec_decode_num_draft_tokens", "Tokens guessed.", stats.drafted_tokens),
            ("vllm:spec_decode_num_accepted_tokens", "Guesses that were right.", stats.accepted_tokens),
            ("tenfold_engine_busy_seconds", "Seconds the engine computed.", stats.busy_seconds),
            ("tenfold_engine_uptime_seconds", "Seconds since it was ready.", stats.uptime),
        ]
        for name, text, number in counters:
            yield CounterMetricFamily(name, text, value=float(number))
