"""Whatever the OpenAPI document allows, and what it does not: no failure, no hang, no answer that it does not name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.api.test_openai import EMBEDDER, MODEL

EXAMPLES = 30
"""Of each route."""
SECONDS = 60
"""Longest that an answer may take on a busy machine."""
NAMED = [status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def schema(server: Any) -> Iterator[Any]:
    """The server's own document; what is made under it is deleted again, and switches are set back."""
    load_all_checks()
    kept = {document["id"] for document in httpx.get(f"{server.url}/api/documents").json()["data"]}
    collections = f"{server.url}/api/documents/collections"
    known = {collection["name"] for collection in httpx.get(collections).json()["data"]}
    keys = {key["id"] for key in httpx.get(f"{server.url}/api/keys").json()["data"]}
    switches = httpx.get(f"{server.url}/api/switches").json()["switches"]
    yield schemathesis.openapi.from_url(f"{server.url}/api/openapi.json")
    for document in httpx.get(f"{server.url}/api/documents").json()["data"]:
        if document["id"] not in kept:
            httpx.delete(f"{server.url}/api/documents/{document['id']}")
    for collection in httpx.get(collections).json()["data"]:
        if collection["name"] not in known:
            httpx.delete(f"{collections}/{quote(collection['name'], safe='')}")
    for job in httpx.get(f"{server.url}/api/jobs?limit=500").json()["data"]:
        httpx.delete(f"{server.url}/api/jobs/{job['id']}")
    for key in httpx.get(f"{server.url}/api/keys").json()["data"]:
        if key["id"] not in keys:
            httpx.delete(f"{server.url}/api/keys/{key['id']}")
    httpx.patch(f"{server.url}/api/switches", json=switches)


NO_LIMITS = {"requests_per_minute": None, "day_dollars": None, "month_dollars": None, "warn_percent": None}


def served(case: Any) -> Any:
    """Ask for a model that there is, and for a short answer: a wrong name alone would hide everything behind it."""
    if case.path.startswith("/v1") and isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
        case.body["model"] = EMBEDDER if case.path == "/v1/embeddings" else MODEL
        if case.path != "/v1/embeddings" and not isinstance(case.body.get("max_tokens"), str):
            case.body["max_tokens"] = 2
            case.body.pop("max_completion_tokens", None)
    return case


def test_nothing_is_answered_that_the_document_does_not_name(schema: Any) -> None:
    asked = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        right = operation.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE)
        wrong = operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)

        @given(case=st.one_of(right, wrong) if takes_something(operation) else right)
        @settings(
            max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def check(case: Any) -> None:
            nonlocal asked
            asked += 1
            response = served(case).call(timeout=SECONDS)
            assert response.status_code < 500 or response.status_code == 503, response.text
            case.validate_response(response, checks=NAMED)

        check()
        if operation.path == "/api/limits":  # else nothing that comes after it would get beyond them
            httpx.patch(f"{schema.location.removesuffix('/api/openapi.json')}/api/limits", json=NO_LIMITS)
    assert asked > 300


def test_every_route_says_in_a_sentence_what_it_does_and_what_it_returns(schema: Any) -> None:
    for path, methods in schema.raw_schema["paths"].items():
        for method, operation in methods.items():
            summary, description = operation["summary"], operation.get("description", "")
            assert re.fullmatch(r"[A-Z].* .*\.", summary), f"{method} {path}: {summary}"
            assert re.match(r"Returns .*\.", description, re.S), f"{method} {path}: {description}"


def takes_something(operation: Any) -> bool:
    """Whether there is anything about a request to it that could be wrong."""
    return bool(operation.body or operation.query or operation.path_parameters)
