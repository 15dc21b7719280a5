"""The one tree of errors that reach a user: each says what was wrong and what to do, and maps to one HTTP status."""

from __future__ import annotations


class TenfoldError(Exception):
    """Base of every error that is meant to be read by a user."""

    status = 500
    kind = "server_error"
    code: str | None = None
    retry_after: float | None = None
    """Seconds after which asking again may help."""

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
    retry_after = 2


class UnsupportedMediaTypeError(InvalidInputError):
    """The body is not of a kind that is read here."""

    status = 415
    code = "unsupported_media_type"


class DocumentError(TenfoldError):
    """A document cannot be read; the message says why."""

    status = 422
    kind = "invalid_request_error"
    code = "unreadable_document"
