"""What those who run a server ask: whether it serves, what it does, which version it is."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from backend.access.caller import STRANGER
from backend.api.deps import CallerDep, RuntimeDep
from backend.api.rooms import Room
from backend.engine.about import PrecisionReport, TriedProducts
from backend.engine.protocol import Phase
from backend.errors import UnavailableError
from backend.knowledge.reader import ReaderPhase
from backend.runtime import Runtime

router = APIRouter(tags=["Control"], route_class=Room(8).route_class())

HEALTH_TIMEOUT = 1.0
"""Seconds a health check waits for a turn; a longer turn is no illness, and its age is told."""
TROUBLE = (ReaderPhase.WAITING, ReaderPhase.STOPPED)
"""What of the reader is seen in the status; everything that needs no new document is answered all the same."""


SERVING, DEGRADED, HUNG = "ok", "degraded", "hung"
"""What is said of a server whose engine is ready; else its phase is."""


class Version(BaseModel):
    """The version of this server."""

    version: str


class Load(BaseModel):
    """Requests that are being served or wait."""

    server_load: int


class ReaderHealth(BaseModel):
    """What the thread that reads documents does, why (where it waits), and since when (seconds since the epoch)."""

    phase: ReaderPhase
    detail: str
    since: float


class Queue(BaseModel):
    """Requests with the engine."""

    running: int
    waiting_realtime: int
    waiting_batch: int


class Health(BaseModel):
    """How the server is. What is not known (yet), or not for whoever asks, is left out.

    `status` is "ok", "degraded" (documents are not being read), "hung", or the engine's phase while it is not ready.
    `lost_writes` are rows of the ledger and answers that the database never took; `unstored_entries` are requests of
    which it took nothing but their machine time and cost; `lost_seconds` the most seconds of requests that are not in
    the ledger since the server was killed while they were being stored.
    """

    status: str
    detail: str | None = None
    model: str | None = None
    restarts: int | None = None
    reader: ReaderHealth | None = None
    lost_writes: int | None = None
    unstored_entries: int | None = None
    lost_seconds: float | None = None
    last_turn_seconds: float | None = None
    variant: str | None = None
    device: str | None = None
    attention: str | None = None
    products: str | None = None
    tried_products: tuple[TriedProducts, ...] | None = None
    """The ways to multiply by the weights that were tried at start, the one that serves first."""
    precision: PrecisionReport | None = None
    """What "auto" weights come to on this machine, and what was measured."""
    uptime_seconds: float | None = None
    queue: Queue | None = None
    stats: dict[str, int | float | str] | None = None
    """The engine's counters."""


NOT_READY: dict[int | str, dict[str, Any]] = {503: {"description": "It does not, or not yet."}}


@router.head("/health", include_in_schema=False)
@router.get(
    "/health", summary="Tell whether requests can be served.", response_class=Response, responses=NOT_READY
)
def health(runtime: RuntimeDep) -> Response:
    """Returns nothing but 200 while requests can be served, else 503: what vLLM's clients and load balancers ask."""
    return Response(status_code=503 if runtime.engine.hung or _problem(runtime) is not None else 200)


@router.head("/ping", include_in_schema=False)
@router.post("/ping", include_in_schema=False)
@router.get(
    "/ping", summary="Tell whether requests can be served, as SageMaker asks.", response_class=Response,
    responses=NOT_READY,
)  # fmt: skip
def ping(runtime: RuntimeDep) -> Response:
    """Returns the same as `/health`."""
    return health(runtime)


@router.get("/version", summary="Tell the version of this server.")
async def version(request: Request) -> Version:
    """Returns it as vLLM does."""
    return Version(version=request.app.version)


@router.get("/load", summary="Tell how many requests are being served or wait.")
async def load(runtime: RuntimeDep) -> Load:
    """Returns the number as vLLM does."""
    stats = runtime.engine.stats
    return Load(server_load=stats.running + stats.waiting_realtime + stats.waiting_batch if stats else 0)


@router.head("/healthz", include_in_schema=False)
@router.get(
    "/healthz",
    summary="Tell how the server is, and why it is not well.",
    response_model=Health,
    responses={503: {"model": Health, "description": "It does not; `detail` says why."}},
)
def healthz(runtime: RuntimeDep, caller: CallerDep) -> JSONResponse:
    """Returns what is known of engine and documents: 200 while requests are answered, else 503 with why not.

    `last_turn_seconds` ago the engine's loop was heard of.

    Who has no key is told the status and no more.
    """
    health, headers = _health(runtime)
    shown = health if caller != STRANGER else Health(status=health.status)
    status = 200 if health.status in (SERVING, DEGRADED) else 503
    return JSONResponse(shown.model_dump(exclude_none=True), status_code=status, headers=headers)


def _problem(runtime: Runtime) -> UnavailableError | None:
    """Why no request can be answered now: the engine's state, or a model whose texts cannot be used."""
    state = runtime.engine.state
    if state.phase is not Phase.READY:
        return state.error()
    try:
        runtime.texts.text()
    except UnavailableError as error:
        return error
    return None


def _health(runtime: Runtime) -> tuple[Health, dict[str, str]]:
    """How the server is, and the headers that say when to come again."""
    engine = runtime.engine
    state = engine.state
    health = Health(
        status=state.phase, detail=state.detail, model=runtime.settings.served_model, restarts=state.restarts,
        reader=ReaderHealth.model_validate(runtime.reader.state, from_attributes=True),
        lost_writes=runtime.database.writer.lost, unstored_entries=runtime.ledger.unstored,
        lost_seconds=runtime.ledger.lost_seconds,
    )  # fmt: skip
    if (problem := _problem(runtime)) is not None:
        phase = Phase.FAILED if state.phase is Phase.READY else state.phase
        return health.model_copy(update={"status": phase, "detail": problem.message}), problem.headers
    stats = engine.stats
    with contextlib.suppress(UnavailableError):  # a long turn
        stats = engine.ping(HEALTH_TIMEOUT)
    health.status = DEGRADED if runtime.reader.state.phase in TROUBLE else SERVING
    if engine.hung:
        health.status = HUNG
    health.last_turn_seconds = round(engine.silence, 1)
    if engine.info is not None:
        health.variant, health.device = engine.info.variant, engine.info.device
        health.attention, health.products = engine.info.attention, engine.info.products
        health.tried_products = engine.info.tried_products
        health.precision = engine.info.precision
    if stats is not None:
        health.uptime_seconds = round(stats.uptime, 1)
        health.queue = Queue.model_validate(stats, from_attributes=True)
        health.stats = {key: value for key, value in asdict(stats).items() if key != "nonce"}
    return health, {}


@router.get("/metrics", summary="Read the metrics for Prometheus.", response_class=PlainTextResponse)
def metrics(runtime: RuntimeDep) -> Response:
    """Returns counters, gauges and histograms in Prometheus' text format."""
    return Response(runtime.metrics.render(), media_type=CONTENT_TYPE_LATEST)
