"""Errors over HTTP: every one has OpenAI's shape, whoever raised it, and each route says which it may answer."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import MAX_BODY_SIZE_SCOPE_KEY

from backend.api.limits import too_large
from backend.errors import InvalidInputError, NotFoundError, OverloadedError, TenfoldError, error_body
from backend.store.failures import named_failure

log = logging.getLogger(__name__)

MEANINGS = {
    400: "The request is not right; the message says what about it.",
    401: "A valid API key is needed.",
    403: "The caller may not do this, or not from where it calls.",
    404: "There is no such thing here.",
    409: "It is in a state in which this cannot be done.",
    413: "The request is larger than what is accepted.",
    415: "The body is not JSON.",
    422: "A document cannot be read.",
    429: "Too much waits, or a budget or rate is used up; retry after the seconds that the header retry-after gives.",
    500: "Something went wrong here; it is in the server's log.",
    503: "The engine is not there now; retry after the seconds that the header retry-after gives.",
}


class ErrorDetail(BaseModel):
    """What was wrong and what to do."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(BaseModel):
    """How every error is answered."""

    error: ErrorDetail


def problems(*further: int) -> dict[int | str, dict[str, Any]]:
    """The errors that a route may answer, for its `responses`: those that any may, and `further` ones."""
    statuses = sorted({400, 401, 403, 413, 500, 503, *further})
    return {status: {"model": ErrorResponse, "description": MEANINGS[status]} for status in statuses}


def as_response(error: TenfoldError) -> JSONResponse:
    """An error as OpenAI clients expect it."""
    pause = {"retry-after": str(error.retry_after)} if isinstance(error, OverloadedError) else {}
    return JSONResponse(error_body(error), status_code=error.status, headers=error.headers | pause)


def add_handlers(api: FastAPI) -> None:
    """Give every error of an app this shape."""
    api.add_exception_handler(TenfoldError, _known)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(HTTPException, _http)
    api.add_exception_handler(Exception, _unknown)


async def _known(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, TenfoldError)
    return as_response(error)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return as_response(refusal_of([dict(one) for one in error.errors()], error.body))


def refusal_of(errors: list[dict[str, Any]], body: Any) -> InvalidInputError:
    """What a validation found wrong with a body, in words, with the field.

    Args:
        errors: as pydantic gives them; each `loc` begins with where it was, as "body" or "query".
        body: what was sent.
    """
    places = [_place(one, body) for one in errors]
    # What may be one thing or another fails once for each of them.
    reasons = dict.fromkeys(str(one["msg"]) for one, place in zip(errors, places, strict=True) if place == places[0])
    where = places[0]
    message = "; or: ".join(reasons)
    return InvalidInputError(f"{where}: {message}" if where else message, param=where or None)


def _place(error: dict[str, Any], body: Any) -> str:
    """The field that an error is about, without the names of the types that were tried for it."""
    kind, *rest = error["loc"]
    if kind != "body" or isinstance(body, FormData):
        return ".".join(str(part) for part in rest)
    parts: list[str] = []
    value = body
    for part in rest:
        if isinstance(value, dict) and (part in value or error["type"] == "missing"):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            break
        parts.append(str(part))
    return ".".join(parts)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return as_response(NotFoundError(f"There is no {request.method} {request.url.path} here."))
    if error.status_code == 413:
        return as_response(too_large(request.scope[MAX_BODY_SIZE_SCOPE_KEY]))
    mapped = InvalidInputError(str(error.detail))
    mapped.status = error.status_code
    response = as_response(mapped)
    response.headers.update(error.headers or {})
    return response


async def _unknown(_: Request, error: Exception) -> JSONResponse:
    log.exception("a request failed", exc_info=error)
    return as_response(
        named_failure(error) or TenfoldError("Something went wrong here; it is in the server's log.")
    )
