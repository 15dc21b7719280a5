"""What those who run a server ask: whether it serves, what it does, which version it is."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from backend.access.caller import STRANGER
from backend.api.deps import CallerDep, RuntimeDep
from backend.api.rooms import Room
from backend.engine.protocol import Phase
from backend.errors import ModelFailedError, UnavailableError
from backend.knowledge.reader import ReaderPhase
from backend.runtime import Runtime

router = APIRouter(tags=["Control"], route_class=Room(8).route_class())

HEALTH_TIMEOUT = 1.0
"""Seconds a health check waits for a turn; a longer turn is no illness, and its age is told."""
TROUBLE = (ReaderPhase.WAITING, ReaderPhase.STOPPED)
"""What of the reader is seen in the status; everything that needs no new document is answered all the same."""


NOT_READY: dict[int | str, dict[str, Any]] = {503: {"description": "It does not, or not yet."}}


@router.get(
    "/health", summary="Whether requests can be served", response_class=Response, responses=NOT_READY
)
async def health(runtime: RuntimeDep) -> Response:
    """Nothing but 200 while requests can be served, else 503: what vLLM's clients and load balancers ask."""
    return Response(status_code=200 if runtime.engine.state.phase is Phase.READY else 503)


@router.get("/ping", summary="Whether requests can be served", response_class=Response, responses=NOT_READY)
async def ping(runtime: RuntimeDep) -> Response:
    """The same, as SageMaker asks it."""
    return await health(runtime)


@router.get("/version", summary="The version of this server")
async def version(request: Request) -> dict[str, str]:
    """As vLLM gives it."""
    return {"version": request.app.version}


@router.get("/load", summary="How many requests are being served or wait")
async def load(runtime: RuntimeDep) -> dict[str, int]:
    """As vLLM gives it."""
    stats = runtime.engine.stats
    return {"server_load": stats.running + stats.waiting_realtime + stats.waiting_batch if stats else 0}


@router.get(
    "/healthz",
    summary="Whether the engine answers",
    response_model=dict[str, Any],
    responses={503: {"model": dict[str, Any], "description": "It does not; `detail` says why."}},
)
def healthz(runtime: RuntimeDep, caller: CallerDep) -> JSONResponse:
    """200 while requests are answered; `last_turn_seconds` ago the engine's loop was heard of. 503 says why not.

    Who has no key is told the status and no more.
    """
    status, body, headers = _health(runtime)
    body = body if caller != STRANGER else {"status": body["status"]}
    return JSONResponse(body, status_code=status, headers=headers)


def _health(runtime: Runtime) -> tuple[int, dict[str, Any], dict[str, str]]:
    engine = runtime.engine
    state = engine.state
    body: dict[str, Any] = {
        "status": state.phase,
        "detail": state.detail,
        "model": runtime.settings.served_model,
        "restarts": state.restarts,
        "reader": asdict(runtime.reader.state),
    }
    if state.phase is not Phase.READY:
        error = state.error()
        return error.status, body | {"detail": error.message}, error.headers
    try:
        runtime.texts.text()
    except ModelFailedError as error:
        failed = {"status": Phase.FAILED, "detail": error.message}
        return error.status, body | failed, error.headers
    stats = engine.stats
    with contextlib.suppress(UnavailableError):  # a long turn
        stats = engine.ping(HEALTH_TIMEOUT)
    hung = engine.hung
    working = "degraded" if runtime.reader.state.phase in TROUBLE else "ok"
    body |= {"status": "hung" if hung else working, "last_turn_seconds": round(engine.silence, 1)}
    if engine.info is not None:
        body |= {"variant": engine.info.variant, "device": engine.info.device, "attention": engine.info.attention}
    if stats is not None:
        body |= {
            "uptime_seconds": round(stats.uptime, 1),
            "queue": {
                "running": stats.running,
                "waiting_realtime": stats.waiting_realtime,
                "waiting_batch": stats.waiting_batch,
            },
            "stats": {key: value for key, value in asdict(stats).items() if key != "nonce"},
        }
    return 503 if hung else 200, body, {}


@router.get("/metrics", summary="Read Prometheus metrics", response_class=PlainTextResponse)
def metrics(runtime: RuntimeDep) -> Response:
    """Prometheus metrics."""
    return Response(runtime.metrics.render(), media_type=CONTENT_TYPE_LATEST)
