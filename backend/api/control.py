"""Switches, health and metrics over HTTP."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from backend.api.dependencies import runtime_of
from backend.api.rooms import Room
from backend.engine.client import EngineUnavailableError
from backend.engine.switches import InvalidSwitchError, describe
from backend.errors import InvalidInputError
from backend.runtime import Runtime

router = APIRouter(tags=["Control"], route_class=Room(8).route_class())
RuntimeDep = Annotated[Runtime, Depends(runtime_of)]

HEALTH_TIMEOUT = 3.0


def _switches(runtime: Runtime) -> dict[str, Any]:
    applied = runtime.engine.applied
    return {
        "switches": runtime.engine.switches.as_dict(),
        "variant": applied.variant if applied else None,
        "loading": applied.loading if applied else None,
        "error": applied.error if applied else None,
        "about": describe(),
    }


@router.get("/api/switches")
def get_switches(runtime: RuntimeDep) -> dict[str, Any]:
    """Every optimization's state, what it does, and when a change acts."""
    return _switches(runtime)


@router.patch("/api/switches")
def patch_switches(changes: Annotated[dict[str, Any], Body()], runtime: RuntimeDep) -> dict[str, Any]:
    """Change some; the others stay."""
    try:
        runtime.set_switches(changes)
    except InvalidSwitchError as error:
        raise InvalidInputError(str(error), param="switches") from error
    return _switches(runtime)


@router.get("/healthz")
def healthz(runtime: RuntimeDep) -> JSONResponse:
    """200 only if the engine's loop answered from within a turn just now."""
    state = runtime.engine.state
    body: dict[str, Any] = {
        "status": state.phase,
        "detail": state.detail,
        "model": runtime.settings.served_model,
        "restarts": state.restarts,
    }
    try:
        stats = runtime.engine.ping(HEALTH_TIMEOUT)
    except EngineUnavailableError as error:
        return JSONResponse(body | {"detail": str(error)}, status_code=503)
    body |= {
        "status": "ok",
        "variant": stats.variant,
        "device": runtime.engine.info["device"],
        "attention": runtime.engine.info["attention"],
        "uptime_seconds": round(stats.uptime, 1),
        "queue": {
            "running": stats.running,
            "waiting_realtime": stats.waiting_realtime,
            "waiting_batch": stats.waiting_batch,
        },
        "stats": {key: value for key, value in asdict(stats).items() if key != "nonce"},
    }
    return JSONResponse(body)


@router.get("/metrics")
def metrics(runtime: RuntimeDep) -> Response:
    """Prometheus metrics."""
    return Response(runtime.metrics.render(), media_type=CONTENT_TYPE_LATEST)
