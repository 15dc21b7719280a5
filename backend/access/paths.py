"""Which paths belong to programs, and so to the API, and which to the console's pages."""

from __future__ import annotations

MACHINE = (
    "/v1", "/api", "/healthz", "/metrics",
    # what vLLM's clients and load balancers ask
    "/health", "/ping", "/version", "/load", "/docs", "/redoc", "/openapi.json",
    # a base URL that lacks /v1
    "/chat/completions", "/completions", "/embeddings", "/models", "/responses", "/files", "/batches", "/moderations",
    "/tokenize", "/detokenize", "/rerank", "/score", "/audio", "/images",
)  # fmt: skip
"""Never answered with the console's HTML, whether or not there is such a route."""
OPEN = ("/health", "/ping", "/healthz")
"""Answered without a key: whether the server can be used, and no more."""


def below(path: str, root: str) -> bool:
    """Whether a path is a root or lies below it."""
    return not root or path == root or path.startswith(root + "/")


def is_machine_path(path: str) -> bool:
    """Whether a path belongs to the API rather than the console."""
    return any(below(path, root) for root in MACHINE)
