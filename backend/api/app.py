"""Puts the routes together and describes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles
from swagger_ui_bundle import swagger_ui_path

from backend.access.headers import content_policy
from backend.api import console, openai, operations
from backend.api.errors import add_handlers, problems
from backend.api.limits import BodyLimits
from backend.errors import NotFoundError
from backend.runtime import Runtime
from backend.settings import Settings

DESCRIPTION = (
    "Tenfold's API. `/v1` is OpenAI-compatible, so any OpenAI client works with this server as its base URL. "
    "`/api` is the console's own. An answer whose request does not say how long it may be has at most "
    "TENFOLD_DEFAULT_MAX_TOKENS tokens; one request may ask for TENFOLD_MAX_PROMPTS answers (prompts × n). What would "
    "change an answer and is not done here is refused by name; other fields that are not known are ignored."
)


def create_api(runtime: Callable[[], Runtime], settings: Settings) -> FastAPI:
    """Build the FastAPI app; `runtime` is called per request."""
    api = FastAPI(
        title="Tenfold", version="0.1.0", description=DESCRIPTION, openapi_url="/api/openapi.json",
        docs_url=None, redoc_url=None,
    )
    api.openapi_version = "3.0.3"  # what the bundled Swagger UI reads
    api.state.runtime = runtime
    api.include_router(openai.router)
    api.include_router(openai.router_of_files)
    api.include_router(console.router)
    api.include_router(operations.router, responses=problems())
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

    for path in ("/chat/completions", "/completions", "/embeddings", "/models", "/files", "/batches"):
        api.add_api_route(path, _without_v1, methods=["GET", "HEAD", "POST"], include_in_schema=False)
    uploads = {"/api/documents": settings.max_upload_bytes, "/v1/files": settings.max_file_mb << 20}
    api.add_middleware(BodyLimits, uploads=uploads)
    api.add_middleware(
        CORSMiddleware,
        allow_origins=settings.allowed_origins,
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=["*"],
        expose_headers=["x-request-id", "retry-after"],
    )
    add_handlers(api)
    described = api.openapi

    def openapi() -> dict[str, Any]:
        return _as_answered(described())

    api.openapi = openapi  # type: ignore[method-assign]
    return api


async def _without_v1(request: Request) -> None:
    """Where a client lands whose base URL lacks /v1."""
    raise NotFoundError(
        f"There is no {request.url.path} here. Use {request.base_url}v1 as base URL: the API stands under /v1."
    )


def _as_answered(document: dict[str, Any]) -> dict[str, Any]:
    """Leave out the answer to a wrong body that FastAPI describes and `add_handlers` replaces."""
    for methods in document["paths"].values():
        for operation in methods.values():
            if "HTTPValidationError" in str(operation["responses"].get("422", "")):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    return document
