"""What `/metrics` says, in one table: each name, its kind, labels, buckets, and where its value comes from.

Names are vLLM's (V1), OpenTelemetry's for generative AI and for hardware, and OpenCost's for what inference costs, so
that dashboards made for these read this server as it is; `tenfold_*` is only what they have no name for. What of theirs
is not here is in `metric_absent`, with why. Knows nothing of how values are kept or written out.
"""

from __future__ import annotations

from collections.abc import Callable

from backend.metering.entry import DOLLAR, SECOND, Entry
from backend.metering.metric_family import ENGINE, Family, Kind, Origin, ValuesOf
from backend.metering.metric_readings import (
    asked,
    avoided,
    by_phase,
    computed,
    ended,
    generated,
    idle,
    otel,
    otel_tokens,
    repeated,
    served,
    tokens_by_source,
    whole,
)
from backend.store.tables.usage import UsageKind

# ---- buckets, as those whose names these are have them ---------------------------------------------------------------

FIRST_TOKEN = (
    .001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560
)  # fmt: skip
PER_TOKEN = (.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)  # fmt: skip
WHOLE = (.3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)  # fmt: skip
TOKENS = tuple(step * 10**power for power in range(6) for step in (1, 2, 5))
OTEL_TOKENS = tuple(4**power for power in range(14))
OTEL_DURATION = tuple(0.01 * 2**power for power in range(14))
OTEL_PER_TOKEN = (.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5)  # fmt: skip
OTEL_FIRST_TOKEN = (.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10)  # fmt: skip

# ---- of entries ------------------------------------------------------------------------------------------------------

VLLM = ("model_name", "engine")
GENERAL = ("source", "model", "path")
OTEL = (
    "gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "gen_ai_response_model",
)  # fmt: skip


def _sum(
    name: str, text: str, labels: tuple[str, ...], read: ValuesOf, unit: int = 1
) -> Family:  # fmt: skip
    return Family(name, Kind.COUNTER, text, labels, Origin.ENTRIES, read, unit)


def _spread(
    name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...], read: ValuesOf, unit: int = 1,
    weight: Callable[[Entry], int] = lambda _: 1,
) -> Family:  # fmt: skip
    return Family(name, Kind.HISTOGRAM, text, labels, Origin.ENTRIES, read, unit, buckets, weight)


OF_ENTRIES: tuple[Family, ...] = (
    _sum("vllm:prompt_tokens_total", "Prompt tokens, cached ones too.", VLLM,
         whole(lambda e: e.prompt_tokens, computed)),
    _sum("vllm:prompt_tokens_cached_total", "Prompt tokens found in a cache.", VLLM,
         whole(lambda e: e.cached_tokens, computed)),
    _sum("vllm:prompt_tokens_by_source_total", "Prompt tokens by where their states came from.", (*VLLM, "source"),
         tokens_by_source),
    _sum("vllm:generation_tokens_total", "Tokens generated.", VLLM, whole(lambda e: e.output_tokens, computed)),
    _sum("vllm:prefix_cache_queries_total", "Prompt tokens asked for.", VLLM,
         whole(lambda e: e.prompt_tokens, computed)),
    _sum("vllm:prefix_cache_hits_total", "Prompt tokens found in the cache.", VLLM,
         whole(lambda e: e.cached_tokens, computed)),
    _sum("vllm:spec_decode_num_draft_tokens_total", "Tokens guessed.", VLLM,
         whole(lambda e: e.drafted_tokens, computed)),
    _sum("vllm:spec_decode_num_accepted_tokens_total", "Guesses that were right.", VLLM,
         whole(lambda e: e.accepted_tokens, computed)),
    _sum("vllm:request_success_total", "Requests for text by how they ended.", (*VLLM, "finished_reason"),
         lambda e: (((e.model, ENGINE, e.finish_reason), 1),) if generated(e) else ()),
    _spread("vllm:time_to_first_token_seconds", "Arrival to first token.", VLLM, FIRST_TOKEN,
            whole(lambda e: e.ttft_ns, served), SECOND),
    _spread("vllm:request_time_per_output_token_seconds", "A request's mean time of a token after its first.", VLLM,
            PER_TOKEN, whole(lambda e: e.tpot_ns, served), SECOND),
    _spread("vllm:time_per_output_token_seconds", "Each token after the first, at its request's mean.", VLLM, PER_TOKEN,
            whole(lambda e: e.tpot_ns, served), SECOND, weight=lambda e: max(e.output_tokens - 1, 0)),
    _spread("vllm:e2e_request_latency_seconds", "Arrival to last token.", VLLM, WHOLE,
            whole(lambda e: e.latency_ns, served), SECOND),
    _spread("vllm:request_queue_time_seconds", "Arrival to the first step.", VLLM, WHOLE,
            whole(lambda e: e.queue_ns, served), SECOND),
    _spread("vllm:request_inference_time_seconds", "First step to last token.", VLLM, WHOLE,
            whole(lambda e: max(e.latency_ns - e.queue_ns, 0), served), SECOND),
    _spread("vllm:request_prefill_time_seconds", "Its share of the steps that read its prompt.", VLLM, WHOLE,
            whole(lambda e: e.prefill_ns, served), SECOND),
    _spread("vllm:request_decode_time_seconds", "Its share of the steps that wrote its tokens.", VLLM, WHOLE,
            whole(lambda e: e.decode_ns, served), SECOND),
    _spread("vllm:request_prompt_tokens", "Prompt tokens of a request.", VLLM, TOKENS,
            whole(lambda e: e.prompt_tokens, computed)),
    _spread("vllm:request_generation_tokens", "Tokens of an answer.", VLLM, TOKENS,
            whole(lambda e: e.output_tokens, computed)),
    _spread("vllm:request_prefill_kv_computed_tokens", "Prompt tokens of a request that were computed.", VLLM, TOKENS,
            whole(lambda e: e.prompt_tokens - e.cached_tokens, computed)),
    _spread("gen_ai_client_token_usage", "Tokens of a request; also of answers that were given again.",
            (*OTEL, "gen_ai_token_type"), OTEL_TOKENS, otel_tokens),
    _spread("gen_ai_server_request_duration_seconds", "Arrival to end.", (*OTEL, "error_type"), OTEL_DURATION,
            otel(lambda e: e.latency_ns, errors=True), SECOND),
    _spread("gen_ai_server_time_to_first_token_seconds", "Arrival to first token.", OTEL, OTEL_FIRST_TOKEN,
            otel(lambda e: e.ttft_ns), SECOND),
    _spread("gen_ai_server_time_per_output_token_seconds", "A request's mean time of a token after its first.", OTEL,
            OTEL_PER_TOKEN, otel(lambda e: e.tpot_ns), SECOND),
    _sum("tenfold_requests_total", "Requests of every kind by how they ended: ok, failed, cancelled, cached.",
         (*GENERAL, "state"), ended),
    _sum("tenfold_cost_dollars_total", "Cost of requests.", GENERAL, asked(lambda e: e.cost), DOLLAR),
    _sum("tenfold_phase_cost_dollars_total", "Cost of reading prompts and of writing answers.", ("model", "phase"),
         by_phase, DOLLAR),
    _sum("tenfold_saved_dollars_total", "Cost that was avoided, by what avoided it.", ("source", "model", "cause"),
         avoided, DOLLAR),
    _sum("tenfold_speculation_loss_dollars_total", "Cost of guesses that took more than they avoided.", GENERAL,
         asked(lambda e: max(-e.avoided_speculation, 0)), DOLLAR),
    _sum("tenfold_compute_seconds_total", "Machine time of requests.", GENERAL, asked(lambda e: e.compute_ns), SECOND),
    _sum("tenfold_idle_seconds_total", "Machine time in which nothing was asked.", (), idle(lambda e: e.compute_ns),
         SECOND),
    _sum("tenfold_idle_cost_dollars_total", "What idle time cost.", (), idle(lambda e: e.cost), DOLLAR),
    _sum("tenfold_repeated_tokens_total", "Tokens of answers that were given again.", ("model", "type"), repeated),
    _sum("tenfold_embedding_tokens_total", "Tokens of embeddings, known ones too.", GENERAL,
         asked(lambda e: e.prompt_tokens, lambda e: e.kind is UsageKind.EMBED)),
    _sum("tenfold_embedding_tokens_reused_total", "Tokens of embeddings whose vectors were known.", GENERAL,
         asked(lambda e: e.cached_tokens, lambda e: e.kind is UsageKind.EMBED)),
)  # fmt: skip

# ---- of the engine ---------------------------------------------------------------------------------------------------


def _now(name: str, text: str, labels: tuple[str, ...], read: ValuesOf) -> Family:
    return Family(name, Kind.GAUGE, text, labels, Origin.ENGINE, read)


def _since(name: str, text: str, labels: tuple[str, ...], read: ValuesOf) -> Family:
    return Family(name, Kind.COUNTER, text, labels, Origin.ENGINE, read)


OF_THE_ENGINE: tuple[Family, ...] = (
    _now("vllm:num_requests_running", "Sequences in the batch.", VLLM, lambda s: ((s.model, s.stats.running),)),
    _now("vllm:num_requests_waiting", "Sequences waiting.", VLLM, lambda s: ((s.model, s.waiting),)),
    _now("vllm:num_requests_waiting_by_reason", "Sequences waiting; here always for room.", (*VLLM, "reason"),
         lambda s: (((*s.model, "capacity"), s.waiting),)),
    _now("vllm:kv_cache_usage_perc", "Share of the KV cache's blocks in use, 0 to 1.", VLLM,
         lambda s: ((s.model, s.stats.kv_used / max(s.blocks, 1)),)),
    _now("vllm:cache_config_info", "How the KV cache is laid out.", (*VLLM, "block_size", "num_gpu_blocks"),
         lambda s: (((*s.model, str(s.block_size), str(s.blocks)), 1),)),
    _since("vllm:num_preemptions_total", "Sequences sent back to wait.", VLLM,
           lambda s: ((s.model, s.stats.preemptions),)),
    _now("tenfold_requests_waiting", "Sequences waiting, by path.", ("path",),
         lambda s: ((("realtime",), s.stats.waiting_realtime), (("batch",), s.stats.waiting_batch))),
    _now("tenfold_kv_blocks", "Blocks of the KV cache.", ("state",),
         lambda s: tuple(((state,), getattr(s.stats, f"kv_{state}")) for state in ("free", "cached", "used"))),
    _now("tenfold_prefix_disk_bytes", "Prompt states kept on disk.", (), lambda s: (((), s.stats.disk_bytes),)),
    _now("tenfold_engine_memory_bytes", "Resident memory of the engine.", (), lambda s: (((), s.stats.memory_bytes),)),
    _since("tenfold_engine_steps_total", "Steps of the engine.", (), lambda s: (((), s.stats.steps),)),
    _since("tenfold_engine_busy_seconds_total", "Seconds the engine computed.", (),
           lambda s: (((), s.stats.busy_seconds),)),
    _since("tenfold_engine_uptime_seconds_total", "Seconds since it was ready.", (),
           lambda s: (((), s.stats.uptime),)),
)  # fmt: skip

# ---- of money, as OpenCost shows it ----------------------------------------------------------------------------------

OPENCOST = ("model_name", "model_version", "namespace", "cost_basis", "workload_type")
OF_MONEY: tuple[Family, ...] = (
    Family("llm_total_hourly_cost", Kind.GAUGE,
           "US dollars an hour: allocation is the machine's price, usage its share that requests took since the start.",
           OPENCOST, Origin.MONEY, lambda spending: spending.hourly()),
    Family("llm_cost_per_million_tokens", Kind.GAUGE,
           "US dollars of a million tokens since the start: allocation with idle time, usage without.",
           (*OPENCOST, "phase", "allocation_method"), Origin.MONEY, lambda spending: spending.per_million()),
    Family("llm_cache_savings_fraction", Kind.GAUGE,
           "What the prefix cache avoided, as a share of what requests would have cost without it.",
           OPENCOST[:3], Origin.MONEY, lambda spending: spending.cache_savings()),
    Family("tenfold_machine_price_dollars_per_hour", Kind.GAUGE, "The price in force, and where it is from.",
           ("machine", "source", "read"), Origin.MONEY, lambda spending: spending.price()),
)  # fmt: skip

# ---- of rooms and the machine ----------------------------------------------------------------------------------------

GPU = ("hw_id", "hw_name", "hw_vendor", "gpu_index")


def _bound(name: str, kind: Kind, text: str, labels: tuple[str, ...] = ()) -> Family:
    return Family(name, kind, text, labels, Origin.SERVER, lambda points: points)


OF_THE_SERVER: tuple[Family, ...] = (
    _bound("tenfold_engine_up", Kind.GAUGE, "1 while the engine is ready."),
    _bound("tenfold_engine_restarts_total", Kind.COUNTER, "Times the engine was brought back."),
    _bound("vllm:admission_rejections_total", Kind.COUNTER, "Requests refused because too many waited.",
           (*VLLM, "reason")),
    _bound("tenfold_limit_rejections_total", Kind.COUNTER, "Requests refused by a budget or a rate.", ("reason",)),
    _bound("tenfold_budget_used_ratio", Kind.GAUGE, "Share of a budget that is spent; key is empty for that in all.",
           ("key", "period")),
    _bound("tenfold_lost_writes_total", Kind.COUNTER, "Rows that the database never took."),
    _bound("tenfold_lost_seconds", Kind.GAUGE, "Most seconds of requests that the last kill cost the ledger."),
    _bound("tenfold_cpu_seconds_total", Kind.COUNTER, "Processor time of this server's processes.", ("process",)),
    _bound("tenfold_cpu_utilization_ratio", Kind.GAUGE, "Share of all cores since the scrape before.", ("process",)),
    _bound("hw_gpu_utilization_ratio", Kind.GAUGE, "Share of the time in which the GPU computed.", GPU),
    _bound("hw_gpu_memory_usage_bytes", Kind.GAUGE, "Memory of the GPU in use, by anybody.", GPU),
    _bound("hw_gpu_memory_limit_bytes", Kind.GAUGE, "Memory of the GPU.", GPU),
    _bound("hw_gpu_power_draw_watts", Kind.GAUGE, "What the GPU draws.", GPU),
    _bound("hw_gpu_energy_consumed_joules_total", Kind.COUNTER, "Energy of the GPU since its driver was loaded.", GPU),
    _bound("hw_gpu_temperature_celsius", Kind.GAUGE, "Temperature of the GPU.", GPU),
)  # fmt: skip

TABLE: tuple[Family, ...] = (*OF_ENTRIES, *OF_THE_ENGINE, *OF_MONEY, *OF_THE_SERVER)
