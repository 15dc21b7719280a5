"""What a scrape gives: valid, under names that others' dashboards know, and with money that adds up."""

from __future__ import annotations

import math
import re
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from backend.engine.messages import SamplingParams, Stats
from backend.generation.request import TextRequest
from backend.metering.booking import idle_entry
from backend.metering.devices import Gpus
from backend.metering.entry import DOLLAR, SECOND
from backend.metering.metric_absent import NOT_APPLICABLE
from backend.metering.metric_family import Kind
from backend.metering.metric_machine import Processors
from backend.metering.metric_table import TABLE
from tests.generation.conftest import Room

EXPECTED = [
    "num_requests_running", "num_requests_waiting", "num_requests_waiting_by_reason", "kv_cache_usage_perc",
    "engine_sleep_state", "cache_config_info", "lora_requests_info", "num_preemptions_total", "prompt_tokens_total",
    "generation_tokens_total", "prompt_tokens_by_source_total", "prompt_tokens_cached_total",
    "prompt_tokens_recomputed_total", "request_success_total", "prefix_cache_queries_total",
    "prefix_cache_hits_total", "external_prefix_cache_queries_total", "external_prefix_cache_hits_total",
    "mm_cache_queries_total", "mm_cache_hits_total", "corrupted_requests_total", "spec_decode_num_drafts_total",
    "spec_decode_num_draft_tokens_total", "spec_decode_num_accepted_tokens_total",
    "spec_decode_num_accepted_tokens_per_pos_total", "estimated_flops_per_gpu_total",
    "estimated_read_bytes_per_gpu_total", "estimated_write_bytes_per_gpu_total", "admission_rejections_total",
    "time_to_first_token_seconds", "inter_token_latency_seconds", "request_time_per_output_token_seconds",
    "time_per_output_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds",
    "request_inference_time_seconds", "request_prefill_time_seconds", "request_decode_time_seconds",
    "request_prompt_tokens", "request_generation_tokens", "request_max_num_generation_tokens",
    "request_params_max_tokens", "request_prefill_kv_computed_tokens", "request_params_n", "iteration_tokens_total",
    "kv_block_lifetime_seconds", "kv_block_idle_before_evict_seconds", "kv_block_reuse_gap_seconds",
]  # fmt: skip
STATS = Stats(
    nonce=0, uptime=9.0, busy_seconds=3.0, steps=7, running=2, waiting_realtime=1, waiting_batch=4, kv_free=6,
    kv_cached=3, kv_used=1, prompt_tokens=0, cached_tokens=0, output_tokens=0, preemptions=5, drafted_tokens=0,
    accepted_tokens=0, embedded_texts=0, embedding_seconds=0.0, variant="bf16", memory_bytes=1 << 20,
)  # fmt: skip


def scraped(room: Room) -> dict[str, Any]:
    """Samples of a scrape by name and labels."""
    families = text_string_to_metric_families(room.metrics.render().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def of(samples: dict[str, Any], name: str, **labels: str) -> float:
    found = [v for (n, key), v in samples.items() if n == name and set(labels.items()) <= set(key)]  # type: ignore
    assert found, f"no {name} {labels}"
    return sum(found)


@pytest.fixture
def busy(room: Room) -> Room:
    """After two answers, a request that was cancelled, one that failed, and idle time; with the engine's counters."""
    room.ledger.open(thread=False)
    room.engine.stats = STATS  # type: ignore[assignment]
    for ending in ("answer", "answer", "abort", "fail"):
        request = TextRequest(text="Hello", source="api", sampling=SamplingParams(temperature=1.0))
        generation = room.service.start(room.service.prepare(request))
        getattr(room.engine, ending)(generation.id, *(["It broke."] if ending == "fail" else []))
    room.metrics.observe(idle_entry("span", 1, 0, 60 * SECOND, 40 * SECOND, 40 * DOLLAR))
    return room


def test_every_name_that_vllms_dashboards_read_is_there_or_said_not_to_apply() -> None:
    ours = {family.name for family in TABLE}
    for name in (f"vllm:{name}" for name in EXPECTED):
        assert (name in ours) != (name in NOT_APPLICABLE), name
    assert not ours & set(NOT_APPLICABLE) and all(NOT_APPLICABLE.values())


def test_a_scrape_is_what_promtool_accepts(busy: Room) -> None:
    text = busy.metrics.render().decode()
    lines = text.splitlines()
    declared = Counter(line.split()[2] for line in lines if line.startswith("# TYPE"))
    helped = Counter(line.split()[2] for line in lines if line.startswith("# HELP"))
    assert set(declared.values()) == {1} and declared == helped
    series = Counter(line.rsplit(" ", 1)[0] for line in lines if line and not line.startswith("#"))
    assert set(series.values()) == {1}, "no series is there twice"
    for family in TABLE:
        assert family.name in declared and family.text.endswith(".")
        assert (family.kind is Kind.COUNTER) == family.name.endswith("_total"), family.name
        assert re.fullmatch(r"[a-z0-9_:]+", family.name)
        assert all(re.fullmatch(r"[a-z_]+", label) for label in family.labels)


def test_histograms_are_cumulative_and_end_in_their_count(busy: Room) -> None:
    samples = scraped(busy)
    for family in (family for family in TABLE if family.kind is Kind.HISTOGRAM):
        by_labels: dict[Any, list[tuple[float, float]]] = {}
        for (name, key), value in samples.items():  # type: ignore[misc]
            if name == f"{family.name}_bucket":
                labels = dict(key)
                edge = float(labels.pop("le"))
                by_labels.setdefault(tuple(sorted(labels.items())), []).append((edge, value))
        for labels, buckets in by_labels.items():
            counts = [count for _, count in sorted(buckets)]
            assert counts == sorted(counts) and max(buckets)[0] == math.inf
            assert counts[-1] == samples[f"{family.name}_count", labels]  # type: ignore[index]
            assert {edge for edge, _ in buckets} >= set(family.buckets)


def test_the_engines_counters_are_shown_as_they_are_now(busy: Room) -> None:
    samples = scraped(busy)
    assert of(samples, "vllm:num_requests_running", model_name="model") == 2
    assert of(samples, "vllm:num_requests_waiting") == of(samples, "tenfold_requests_waiting") == 5
    assert of(samples, "tenfold_requests_waiting", path="batch") == 4
    assert of(samples, "vllm:kv_cache_usage_perc") == pytest.approx(0.1)
    assert of(samples, "vllm:num_preemptions_total") == 5
    assert of(samples, "vllm:request_success_total", finished_reason="abort") == 1
    assert of(samples, "vllm:request_success_total", finished_reason="error") == 1


def test_what_a_million_tokens_cost_with_idle_time_adds_up_to_the_bill(busy: Room) -> None:
    samples, per_hour = scraped(busy), busy.prices.current.per_hour
    assert of(samples, "llm_total_hourly_cost", cost_basis="allocation", model_name="model") == per_hour
    bill = of(samples, "tenfold_cost_dollars_total") + of(samples, "tenfold_idle_cost_dollars_total")
    read, written = of(samples, "vllm:prompt_tokens_total"), of(samples, "vllm:generation_tokens_total")
    per_million = "llm_cost_per_million_tokens"
    whole = of(samples, per_million, cost_basis="allocation", phase="") / 1e6 * (read + written)
    parts = [("prompt", read), ("generation", written)]
    split = sum(of(samples, per_million, cost_basis="allocation", phase=p) / 1e6 * n for p, n in parts)
    assert whole == pytest.approx(bill) == pytest.approx(split)
    used = of(samples, per_million, cost_basis="usage", phase="") / 1e6 * (read + written)
    assert used == pytest.approx(of(samples, "tenfold_cost_dollars_total"))


def test_one_name_that_cannot_be_read_hides_no_other(room: Room) -> None:
    def broken() -> float:
        raise RuntimeError("not now")

    room.metrics.bind("tenfold_lost_writes_total", broken)
    room.metrics.bind("tenfold_lost_seconds", lambda: 2.5)
    assert of(scraped(room), "tenfold_lost_seconds") == 2.5
    with pytest.raises(ValueError, match="not a name of the table"):
        room.metrics.bind("tenfold_anything", broken)


def test_processor_time_is_told_by_process_and_as_a_share_of_all_cores() -> None:
    now = [0.0]
    processors = Processors(lambda: None, clock=lambda: now[0])
    assert list(processors.shares()) == []
    now[0] = 1e6  # a million seconds later: next to nothing of them was ours
    ((labels, share),) = processors.shares()
    assert labels == ("web",) and 0 <= share < 0.01
    assert [labels for labels, _ in processors.seconds()] == [("web",)]


def test_a_gpu_is_told_as_far_as_its_driver_tells_it() -> None:
    class NVMLError(Exception):
        pass

    def refuse(*_: object) -> float:
        raise NVMLError("not supported")

    nvml = SimpleNamespace(
        NVMLError=NVMLError, NVML_TEMPERATURE_GPU=0, nvmlInit=lambda: None, nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index, nvmlDeviceGetUUID=lambda _: b"GPU-1",
        nvmlDeviceGetName=lambda _: "H100", nvmlDeviceGetUtilizationRates=lambda _: SimpleNamespace(gpu=37),
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(used=5, total=80), nvmlDeviceGetPowerUsage=lambda _: 250_000,
        nvmlDeviceGetTotalEnergyConsumption=refuse, nvmlDeviceGetTemperature=lambda *_: 41,
    )  # fmt: skip
    (gpu,) = Gpus(lambda: nvml).states()
    assert (gpu.uuid, gpu.name, gpu.utilization, gpu.memory_used, gpu.watts) == ("GPU-1", "H100", 0.37, 5, 250)
    assert gpu.joules is None and gpu.celsius == 41


def test_a_machine_without_the_library_has_no_gpu() -> None:
    def absent() -> Any:
        raise ImportError("pynvml")

    assert Gpus(absent).states() == []
