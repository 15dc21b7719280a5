"""Puts the routes together and gives every error OpenAI's shape."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import MAX_BODY_SIZE_SCOPE_KEY
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles
from swagger_ui_bundle import swagger_ui_path

from backend.access.headers import content_policy
from backend.api import control, documents, openai
from backend.api.limits import BodyLimits, too_large
from backend.errors import InvalidInputError, NotFoundError, TenfoldError
from backend.runtime import Runtime
from backend.settings import Settings
from backend.store.failures import named_failure

log = logging.getLogger(__name__)

DESCRIPTION = (
    "Tenfold's API. `/v1` is OpenAI-compatible, so any OpenAI client works with this server as its base URL. "
    "`/api` is the console's own."
)


def create_api(runtime: Callable[[], Runtime], settings: Settings) -> FastAPI:
    """Build the FastAPI app; `runtime` is called per request."""
    api = FastAPI(
        title="Tenfold", version="0.1.0", description=DESCRIPTION, openapi_url="/api/openapi.json",
        docs_url=None, redoc_url=None,
    )
    api.openapi_version = "3.0.3"  # what the bundled Swagger UI reads
    api.state.runtime = runtime
    for router in (openai.router, documents.router, documents.search_router, control.router):
        api.include_router(router)
    # Served from here: the page must work without access to anybody's network.
    api.mount("/api/docs/static", StaticFiles(directory=swagger_ui_path), name="swagger")

    @api.get("/api/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        static = "/api/docs/static"
        page = get_swagger_ui_html(
            openapi_url="/api/openapi.json",
            title="Tenfold API",
            swagger_js_url=f"{static}/swagger-ui-bundle.js",
            swagger_css_url=f"{static}/swagger-ui.css",
            swagger_favicon_url=f"{static}/favicon-32x32.png",
        )
        page.headers["content-security-policy"] = content_policy(bytes(page.body).decode())
        return page

    @api.get("/docs", include_in_schema=False)
    async def docs_elsewhere() -> RedirectResponse:
        return RedirectResponse("/api/docs")

    @api.get("/openapi.json", include_in_schema=False)
    async def document_elsewhere() -> JSONResponse:
        return JSONResponse(api.openapi())

    api.add_middleware(BodyLimits, upload_bytes=lambda: settings.max_upload_mb << 20)
    api.add_middleware(
        CORSMiddleware,
        allow_origins=settings.allowed_origins,
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=["*"],
        expose_headers=["x-request-id", "retry-after"],
    )
    api.add_exception_handler(TenfoldError, _known)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(HTTPException, _http)
    api.add_exception_handler(Exception, _unknown)
    return api


async def _known(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, TenfoldError)
    return openai.as_response(error)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first: dict[str, Any] = dict(error.errors()[0])
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query"))
    message = f"{where}: {first['msg']}" if where else str(first["msg"])
    return openai.as_response(InvalidInputError(message, param=where or None))


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return openai.as_response(NotFoundError(f"There is no {request.method} {request.url.path} here."))
    if error.status_code == 413:
        return openai.as_response(too_large(request.scope[MAX_BODY_SIZE_SCOPE_KEY]))
    mapped = InvalidInputError(str(error.detail))
    mapped.status = error.status_code
    return openai.as_response(mapped)


async def _unknown(_: Request, error: Exception) -> JSONResponse:
    log.exception("a request failed", exc_info=error)
    return openai.as_response(
        named_failure(error) or TenfoldError("Something went wrong here; it is in the server's log.")
    )


