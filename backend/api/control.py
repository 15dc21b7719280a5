"""Switches, health and metrics over HTTP."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from backend.access.caller import STRANGER
from backend.api.dependencies import CallerDep, runtime_of
from backend.api.rooms import Room
from backend.engine.protocol import Phase
from backend.engine.switches import InvalidSwitchError, describe
from backend.errors import InvalidInputError, ModelFailedError, UnavailableError
from backend.knowledge.reader import ReaderPhase
from backend.runtime import Runtime

router = APIRouter(tags=["Control"], route_class=Room(8).route_class())
RuntimeDep = Annotated[Runtime, Depends(runtime_of)]

HEALTH_TIMEOUT = 1.0
"""Seconds a health check waits for a turn; a longer turn is no illness, and its age is told."""
STORE_TIMEOUT = 2.0
"""Seconds a change waits for its switches to be stored."""
TROUBLE = (ReaderPhase.WAITING, ReaderPhase.STOPPED)
"""What of the reader is seen in the status; everything that needs no new document is answered all the same."""


def _switches(runtime: Runtime) -> dict[str, Any]:
    applied = runtime.engine.applied
    return {
        "switches": runtime.engine.switches.as_dict(),
        "variant": applied.variant if applied else None,
        "loading": applied.loading if applied else None,
        "error": applied.error if applied else None,
        "stored": runtime.engine.switches == runtime.switchboard.stored,  # what the next start begins with
        "about": describe(),
    }


@router.get("/api/switches")
def get_switches(runtime: RuntimeDep) -> dict[str, Any]:
    """Every optimization's state, what it does, and when a change acts."""
    return _switches(runtime)


@router.patch("/api/switches")
def patch_switches(changes: Annotated[dict[str, Any], Body()], runtime: RuntimeDep) -> dict[str, Any]:
    """Change some; the others stay.

    `stored` says whether the next start begins with them: they are stored once they are in force, which takes as long
    as weights need to be loaded, and a database that cannot be written now is tried again.
    """
    try:
        runtime.set_switches(changes)
    except InvalidSwitchError as error:
        raise InvalidInputError(str(error), param="switches") from error
    runtime.switchboard.settled(STORE_TIMEOUT)
    return _switches(runtime)


@router.get("/health")
async def health(runtime: RuntimeDep) -> Response:
    """Nothing but 200 while requests can be served, else 503: what vLLM's clients and load balancers ask."""
    return Response(status_code=200 if runtime.engine.state.phase == "ready" else 503)


@router.get("/ping")
async def ping(runtime: RuntimeDep) -> Response:
    """The same, as SageMaker asks it."""
    return await health(runtime)


@router.get("/version")
async def version(request: Request) -> dict[str, str]:
    """The version of this server."""
    return {"version": request.app.version}


@router.get("/load")
async def load(runtime: RuntimeDep) -> dict[str, int]:
    """How many requests are being served or wait to be."""
    stats = runtime.engine.stats
    return {"server_load": stats.running + stats.waiting_realtime + stats.waiting_batch if stats else 0}


@router.get("/healthz")
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
        "reader": asdict(runtime.ingest.state),
    }
    if state.phase is not Phase.READY:
        error = state.error()
        return error.status, body | {"detail": error.message}, error.headers
    try:
        runtime.text()
    except ModelFailedError as error:
        failed = {"status": Phase.FAILED, "detail": error.message}
        return error.status, body | failed, error.headers
    stats = engine.stats
    with contextlib.suppress(UnavailableError):  # a long turn
        stats = engine.ping(HEALTH_TIMEOUT)
    hung = engine.hung
    working = "degraded" if runtime.ingest.state.phase in TROUBLE else "ok"
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


@router.get("/metrics")
def metrics(runtime: RuntimeDep) -> Response:
    """Prometheus metrics."""
    return Response(runtime.metrics.render(), media_type=CONTENT_TYPE_LATEST)
