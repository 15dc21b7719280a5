"""Switches, health and metrics over HTTP."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Body
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import AfterValidator, BaseModel

from backend.api.bodies import check_text
from backend.api.deps import RuntimeDep
from backend.engine.client import EngineUnavailableError
from backend.engine.switches import InvalidSwitchError, describe
from backend.errors import InvalidInputError
from backend.runtime import Runtime

router = APIRouter(tags=["Control"])

HEALTH_TIMEOUT = 3.0


class SwitchState(BaseModel):
    """The switches asked for, the weights that serve, and what each switch is about."""

    switches: dict[str, bool | int | str]
    variant: str | None
    loading: str | None
    error: str | None
    about: list[dict[str, Any]]


def _switches(runtime: Runtime) -> SwitchState:
    applied = runtime.engine.applied
    return SwitchState(
        switches=runtime.engine.switches.as_dict(),
        variant=applied.variant if applied else None,
        loading=applied.loading if applied else None,
        error=applied.error if applied else None,
        about=describe(),
    )


@router.get("/api/switches", summary="Read the switches")
def get_switches(runtime: RuntimeDep) -> SwitchState:
    """Every optimization's state, what it does, and when a change acts."""
    return _switches(runtime)


@router.patch("/api/switches", summary="Change switches")
def patch_switches(
    changes: Annotated[dict[str, Any], AfterValidator(check_text), Body()], runtime: RuntimeDep
) -> SwitchState:
    """Change some; the others stay."""
    try:
        runtime.set_switches(changes)
    except InvalidSwitchError as error:
        raise InvalidInputError(str(error), param="switches") from error
    return _switches(runtime)


@router.get(
    "/healthz",
    summary="Whether the engine answers",
    responses={503: {"model": dict[str, Any], "description": "It does not; `detail` says why."}},
)
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


@router.get("/metrics", summary="Read Prometheus metrics", response_class=PlainTextResponse)
def metrics(runtime: RuntimeDep) -> Response:
    """Prometheus metrics."""
    return Response(runtime.metrics.render(), media_type=CONTENT_TYPE_LATEST)
