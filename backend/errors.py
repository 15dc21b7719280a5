"""The one tree of errors that reach a user: each says what was wrong and what to do, and maps to one HTTP status."""

from __future__ import annotations

from typing import Any, ClassVar


class TenfoldError(Exception):
    """Base of every error that is meant to be read by a user."""

    status = 500
    kind = "server_error"
    code: str | None = None
    headers: ClassVar[dict[str, str]] = {}

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message, self.param = message, param
        if code is not None:
            self.code = code


class InvalidInputError(TenfoldError):
    """The request cannot be served as it stands."""

    status = 400
    kind = "invalid_request_error"


class ContextLengthError(InvalidInputError):
    """Prompt and answer do not fit the model's context."""

    code = "context_length_exceeded"


class TooLargeError(InvalidInputError):
    """An upload is over the limit."""

    status = 413
    code = "file_too_large"


class NotFoundError(TenfoldError):
    """There is no such thing."""

    status = 404
    kind = "invalid_request_error"
    code = "not_found"


class ConflictError(TenfoldError):
    """It is in a state in which this cannot be done."""

    status = 409
    kind = "invalid_request_error"
    code = "conflict"


class UnauthorizedError(TenfoldError):
    """Credentials are missing or wrong."""

    status = 401
    kind = "authentication_error"
    code = "invalid_api_key"


class ForbiddenError(TenfoldError):
    """The caller may not do this from where it calls."""

    status = 403
    kind = "permission_error"
    code = "forbidden_origin"


class UnavailableError(TenfoldError):
    """The engine is not there now; retrying later may help."""

    status = 503
    kind = "server_error"
    code = "engine_unavailable"
    headers: ClassVar[dict[str, str]] = {"retry-after": "2"}


class ModelFailedError(UnavailableError):
    """The model cannot be loaded as it is; retrying will not help, and clients are told so."""

    code = "model_failed"
    headers: ClassVar[dict[str, str]] = {"x-should-retry": "false"}


class StorageError(UnavailableError):
    """The disk is full, or the database cannot be written or reached now; nothing of the request was kept."""

    code = "storage_unavailable"


class UnsupportedMediaTypeError(InvalidInputError):
    """The body is not of a kind that is read here."""

    status = 415
    code = "unsupported_media_type"


class DocumentError(TenfoldError):
    """A document cannot be read; the message says why."""

    status = 422
    kind = "invalid_request_error"
    code = "unreadable_document"


class TooManyAttemptsError(TenfoldError):
    """Too many wrong keys from one address."""

    status = 429
    kind = "rate_limit_error"
    code = "too_many_attempts"


class DataFolderError(TenfoldError):
    """The data folder or the database cannot be used; the message says what is wrong and what to do."""

    code = "storage"


class OverloadedError(TenfoldError):
    """Too much waits already; nothing of this was begun.

    Attributes:
        retry_after: seconds after which to try again.
    """

    status = 429
    kind = "rate_limit_error"
    code = "overloaded"

    def __init__(self, message: str, *, retry_after: int = 5) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BudgetError(OverloadedError):
    """A budget is used up until its period ends: asking again before is of no use, and clients are told so.

    Attributes:
        brief: the same without the key and the amounts, for where others read it too.
    """

    code = "budget_exceeded"
    headers: ClassVar[dict[str, str]] = {"x-should-retry": "false"}

    def __init__(self, message: str, *, brief: str, retry_after: int = 5) -> None:
        super().__init__(message, retry_after=retry_after)
        self.brief = brief


class RateError(OverloadedError):
    """Too many requests were begun in the last minute."""

    code = "rate_limit_exceeded"


def error_body(error: TenfoldError) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    detail = {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}
    return {"error": {name: _writable(text) if text else text for name, text in detail.items()}}


def _writable(text: str) -> str:
    """What a message quotes from a request may be no text that UTF-8 has."""
    return text.encode("utf-8", "replace").decode()
