"""What files, batches and webhook endpoints are over HTTP, in OpenAI's shapes; what is not OpenAI's is marked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

from backend.api.bodies import Body, Part
from backend.store.tables.batches import Batch, BatchStatus
from backend.store.tables.files import StoredFile
from backend.store.tables.webhooks import WebhookEndpoint

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
"""What a file may be uploaded for."""
LEAST_KEPT, MOST_KEPT = 3600, 2_592_000
"""Seconds after which a file may expire."""


class FileObject(BaseModel):
    """A file; `status` is always processed, since there is nothing to wait for."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    status_details: None = None
    expires_at: int | None = None


class FileList(BaseModel):
    """A page of files."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None = Field(description="Of the first of them.")
    last_id: str | None = Field(description="Of the last: `after` for the page that follows.")
    has_more: bool


class FileDeleted(BaseModel):
    """That a file is gone."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


def file_object(file: StoredFile) -> FileObject:
    """A row as OpenAI describes a file."""
    return FileObject(
        id=file.id, bytes=file.size, created_at=int(file.created), filename=file.name, purpose=file.purpose,
        expires_at=None if file.expires is None else int(file.expires),
    )  # fmt: skip


# ---- batches -----------------------------------------------------------------------------------------------------


class ExpiresAfter(Part):
    """When result files expire, in seconds after they are made."""

    anchor: Literal["created_at"]
    seconds: int = Field(ge=LEAST_KEPT, le=MOST_KEPT)


class BatchBody(Body):
    """POST /v1/batches."""

    input_file_id: str
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
    completion_window: Literal["24h"]
    metadata: (
        dict[Annotated[str, StringConstraints(max_length=64)], Annotated[str, StringConstraints(max_length=512)]]
        | None
    ) = Field(None, max_length=16)
    output_expires_after: ExpiresAfter | None = None


class BatchError(BaseModel):
    """What is wrong with a batch's file, and in which line, counted from 1."""

    code: str
    line: int | None = None
    message: str
    param: str | None = None


class BatchErrors(BaseModel):
    """All that is wrong, up to a hundred."""

    object: Literal["list"] = "list"
    data: list[BatchError]


class RequestCounts(BaseModel):
    """How many requests there are, were answered, and were refused."""

    total: int
    completed: int
    failed: int


class InputDetails(BaseModel):
    """Of the tokens read."""

    cached_tokens: int


class OutputDetails(BaseModel):
    """Of the tokens written; none here are reasoning."""

    reasoning_tokens: int = 0


class BatchUsage(BaseModel):
    """Tokens of all answers."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class BatchObject(BaseModel):
    """A batch and how far it is."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, str] | None
    waiting_for: str | None = Field(description="Tenfold: why it does not go on now, as an engine or a budget.")
    cost: float = Field(description="Tenfold: US dollars of the answers so far.")


class BatchList(BaseModel):
    """A page of batches."""

    object: Literal["list"] = "list"
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


def batch_object(batch: Batch) -> BatchObject:
    """A row as OpenAI describes a batch."""

    def ended(status: BatchStatus) -> int | None:
        return _seconds(batch.ended_at) if batch.status is status else None

    return BatchObject(
        id=batch.id, endpoint=batch.endpoint, model=batch.model or None,
        errors=BatchErrors(data=[BatchError(**error) for error in batch.errors]) if batch.errors else None,
        input_file_id=batch.input_file_id, completion_window=batch.completion_window, status=batch.status,
        output_file_id=batch.output_file_id, error_file_id=batch.error_file_id, created_at=int(batch.created),
        in_progress_at=_seconds(batch.in_progress_at), expires_at=_seconds(batch.expires),
        finalizing_at=_seconds(batch.finalizing_at), completed_at=ended(BatchStatus.COMPLETED),
        failed_at=ended(BatchStatus.FAILED), expired_at=ended(BatchStatus.EXPIRED),
        cancelling_at=_seconds(batch.cancelling_at), cancelled_at=ended(BatchStatus.CANCELLED),
        request_counts=RequestCounts(total=batch.total, completed=batch.completed, failed=batch.failed),
        usage=BatchUsage(
            input_tokens=batch.input_tokens, input_tokens_details=InputDetails(cached_tokens=batch.cached_tokens),
            output_tokens=batch.output_tokens, output_tokens_details=OutputDetails(),
            total_tokens=batch.input_tokens + batch.output_tokens,
        ),
        metadata=batch.tags, waiting_for=batch.waiting or None, cost=batch.cost,
    )  # fmt: skip


def _seconds(moment: float | None) -> int | None:
    return None if moment is None else int(moment)


# ---- webhooks ----------------------------------------------------------------------------------------------------

Event = Literal["batch.completed", "batch.failed", "batch.expired", "batch.cancelled"]


class WebhookBody(Body):
    """POST /v1/webhook_endpoints."""

    name: str = Field(max_length=200)
    url: str
    event_types: list[Event] = Field(min_length=1)


class WebhookObject(BaseModel):
    """An address that is told of events."""

    id: str
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    name: str
    url: str
    event_types: list[str]
    signing_secret_hint: str
    created_at: int
    updated_at: int


class WebhookWithSecret(WebhookObject):
    """The same with what its events are signed with, which is shown once."""

    signing_secret: str


class WebhookList(BaseModel):
    """A page of addresses."""

    object: Literal["list"] = "list"
    data: list[WebhookObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class WebhookDeleted(BaseModel):
    """That an address is forgotten."""

    id: str
    object: Literal["webhook_endpoint.deleted"] = "webhook_endpoint.deleted"
    deleted: Literal[True] = True


def webhook_object(endpoint: WebhookEndpoint) -> WebhookObject:
    """A row as OpenAI describes a webhook endpoint."""
    return WebhookObject(
        id=endpoint.id, name=endpoint.name, url=endpoint.url, event_types=endpoint.event_types,
        signing_secret_hint=f"whsec_…{endpoint.secret[-4:]}", created_at=int(endpoint.created),
        updated_at=int(endpoint.created),
    )  # fmt: skip
