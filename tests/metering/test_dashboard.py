"""The shipped Grafana dashboard asks for nothing that `/metrics` does not have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from backend.metering.metric_table import TABLE
from backend.settings import ROOT
from tests.generation.conftest import Room

DASHBOARD = json.loads((ROOT / "data" / "dashboards" / "tenfold.json").read_text())
FUNCTIONS = {"sum", "rate", "by", "histogram_quantile", "label_values", "le"}
SHOWN = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def names(expression: str) -> set[str]:
    """The metrics that an expression reads: its words without labels, functions and what is in braces or brackets."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|by \([^)]*\)", " ", expression)
    return {word for word in re.findall(r"[a-zA-Z_][a-zA-Z0-9_:]*", bare)} - FUNCTIONS


def expressions() -> Iterator[tuple[str, str]]:
    for panel in SHOWN:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


@pytest.fixture
def scraped(room: Room) -> dict[str, Any]:
    """Names that a scrape declares, with histograms' series, and the labels of each."""
    families = {family.name: family for family in text_string_to_metric_families(room.metrics.render().decode())}
    labels: dict[str, Any] = {family.name: {*family.labels} for family in TABLE}
    out: dict[str, Any] = {}
    for name, family in families.items():
        known = labels.get(name, labels.get(f"{name}_total", set()))
        ends = ("_bucket", "_sum", "_count") if family.type == "histogram" else ("_total",)
        out |= {f"{name}{end}": known | ({"le"} if end == "_bucket" else set()) for end in ends}
        if family.type == "gauge":
            out[name] = known
    return out


def test_every_panels_expression_names_a_metric_that_a_scrape_has(scraped: dict[str, Any]) -> None:
    for title, expression in expressions():
        asked = names(expression)
        assert asked, f"{title}: {expression}"
        assert asked <= set(scraped), f"{title}: {asked - set(scraped)}"


def test_every_label_that_a_panel_filters_or_sums_by_is_one_of_its_metric(scraped: dict[str, Any]) -> None:
    for title, expression in expressions():
        for name, filters in re.findall(r"([a-zA-Z_][a-zA-Z0-9_:]*)\{([^}]*)\}", expression):
            used = set(re.findall(r"([a-z_]+)=~?\"", filters))
            assert used <= scraped[name], f"{title}: {name} has no {used - scraped[name]}"
        for group in re.findall(r"by \(([^)]*)\)", expression):
            used = {label.strip() for label in group.split(",")}
            assert all(used <= scraped[name] for name in names(expression)), f"{title}: {used}"


def test_a_metric_that_is_not_there_is_found(scraped: dict[str, Any]) -> None:
    assert names('sum by (path) (rate(vllm:made_up_total{a="b"}[5m])) / tenfold_engine_up') - set(scraped) == {
        "vllm:made_up_total"
    }


def test_the_dashboard_shows_what_operators_ask_for() -> None:
    asked = {name for _, expression in expressions() for name in names(expression)}
    for name in (
        "vllm:time_to_first_token_seconds_bucket", "vllm:e2e_request_latency_seconds_bucket",
        "vllm:generation_tokens_total", "vllm:num_requests_running", "vllm:kv_cache_usage_perc",
        "vllm:prefix_cache_hits_total", "tenfold_cost_dollars_total", "tenfold_idle_cost_dollars_total",
        "tenfold_saved_dollars_total", "hw_gpu_utilization_ratio", "tenfold_cpu_utilization_ratio",
        "tenfold_requests_total",
    ):  # fmt: skip
        assert name in asked, name
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert all(panel["description"] and panel["fieldConfig"]["defaults"]["unit"] for panel in SHOWN)
