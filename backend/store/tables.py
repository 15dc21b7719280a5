"""Every table. Times are UTC seconds since the epoch; ids are opaque strings or row numbers."""

from __future__ import annotations

import time
import uuid
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, Column, Dialect, Index, LargeBinary, TypeDecorator, UniqueConstraint, text
from sqlmodel import AutoString, Field, SQLModel


def new_id() -> str:
    """An opaque id."""
    return uuid.uuid4().hex


class StateType(TypeDecorator[StrEnum]):
    """A column of one of the states of a `StrEnum`, kept as its word."""

    impl = AutoString
    cache_ok = True

    def __init__(self, states: type[StrEnum]) -> None:
        super().__init__()
        self.states = states

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """To the database."""
        return None if value is None else str(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> StrEnum | None:
        """From the database."""
        return None if value is None else self.states(value)


class DocumentState(StrEnum):
    """How far a document is; what is in force answers in each of them but the last."""

    QUEUED = "queued"
    PARSING = "parsing"
    EMBEDDING = "embedding"
    READY = "ready"
    FAILED = "failed"
    DELETING = "deleting"


class Document(SQLModel, table=True):
    """An uploaded file, by its name; what its state, size and counts say is of its latest version.

    `version` and `build` are those in force, which answer until a later one is ready; 0 while there is none.
    """

    __tablename__ = "document"
    id: str = Field(default_factory=new_id, primary_key=True)
    name: str
    sha256: str = Field(index=True)
    size: int
    state: DocumentState = Field(
        default=DocumentState.QUEUED, sa_column=Column(StateType(DocumentState), nullable=False, index=True)
    )
    reason: str = ""
    progress: float = 0.0
    chunk_count: int = 0
    embedded: int = 0  # chunks whose embedding had to be computed
    reused: int = 0  # chunks whose embedding was known
    seconds: float = 0.0
    latest: int = 1  # number of the latest version uploaded
    version: int = 0
    build: int = 0
    created: float = Field(default_factory=time.time)
    updated: float = Field(default_factory=time.time)


class DocumentVersion(SQLModel, table=True):
    """One content of a document. The bytes lie in the files folder under `sha256`; `build` is its set of chunks."""

    __tablename__ = "document_version"
    document_id: str = Field(foreign_key="document.id", primary_key=True, ondelete="CASCADE")
    number: int = Field(primary_key=True)
    sha256: str = Field(index=True)
    size: int
    build: int = 0  # 0: never read
    chunk_count: int = 0
    embedded: int = 0
    reused: int = 0
    seconds: float = 0.0
    chunker: str = ""
    created: float = Field(default_factory=time.time)


class Collection(SQLModel, table=True):
    """A named set of documents."""

    __tablename__ = "collection"
    name: str = Field(primary_key=True)
    created: float = Field(default_factory=time.time)


class CollectionDocument(SQLModel, table=True):
    """Membership; a document may be in several collections."""

    __tablename__ = "collection_document"
    collection: str = Field(foreign_key="collection.name", primary_key=True, ondelete="CASCADE")
    document_id: str = Field(foreign_key="document.id", primary_key=True, ondelete="CASCADE")


class Chunk(SQLModel, table=True):
    """A piece of a document; `text_hash` is sha256 of its normalized text. A build is one cutting of one version."""

    __tablename__ = "chunk"
    __table_args__ = (UniqueConstraint("document_id", "build", "position", name="uq_chunk_place"),)
    id: str = Field(default_factory=new_id, primary_key=True)
    document_id: str = Field(foreign_key="document.id", index=True, ondelete="CASCADE")
    build: int = 1
    position: int
    text: str
    text_hash: str = Field(index=True)
    tokens: int
    chunker: str


class Embedding(SQLModel, table=True):
    """A vector by the key of everything that determines it; float32, little endian."""

    __tablename__ = "embedding"
    key: str = Field(primary_key=True)
    model: str = Field(index=True)
    dimension: int
    vector: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    tokens: int = 0
    hits: int = 0
    created: float = Field(default_factory=time.time)


class Answer(SQLModel, table=True):
    """An answer that is given again: by the exact prompt and parameters, or, where asked for, by a like question."""

    __tablename__ = "answer"
    key: str = Field(primary_key=True)
    scope: str = Field(default="", index=True)  # what a like question must have in common; empty: exact only
    question: str = ""
    vector: bytes | None = Field(default=None, sa_column=Column(LargeBinary))
    token_ids: list[int] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    finish_reason: str = "stop"
    citations: list[dict[str, Any]] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    prompt_tokens: int = 0
    compute_seconds: float = 0.0
    hits: int = 0
    created: float = Field(default_factory=time.time)
    used: float = Field(default_factory=time.time, index=True)


class Conversation(SQLModel, table=True):
    """A chat."""

    __tablename__ = "conversation"
    id: str = Field(default_factory=new_id, primary_key=True)
    title: str = "New conversation"
    tenant: str = Field(default="", index=True)  # whose it is
    created: float = Field(default_factory=time.time)
    updated: float = Field(default_factory=time.time, index=True)


class Message(SQLModel, table=True):
    """One turn of a chat. `details` holds citations, metrics and settings of an answer."""

    __tablename__ = "message"
    __table_args__ = (Index("uq_message_place", "conversation_id", "position", unique=True),)
    id: str = Field(default_factory=new_id, primary_key=True)
    conversation_id: str = Field(foreign_key="conversation.id", index=True, ondelete="CASCADE")
    position: int
    role: str
    text: str = ""
    state: str = "done"  # done, writing, stopped, failed
    error: str = ""
    details: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    created: float = Field(default_factory=time.time)


class Usage(SQLModel, table=True):
    """The ledger: one row per request that reached a model, whoever sent it."""

    __tablename__ = "usage"
    __table_args__ = (
        Index("ix_usage_finished_source", "finished", "source"),
        Index("ix_usage_kind_finished", "kind", "finished"),
    )
    id: int | None = Field(default=None, primary_key=True)
    request_id: str = Field(index=True)
    source: str  # console, api, job, lab
    kind: str = "generate"  # generate, embed
    path: str = "realtime"
    model: str = ""
    variant: str = ""
    outcome: str = ""  # stop, length, abort, error; cached (given again), reply (the model was not asked)
    arrived: float
    finished: float
    queue_seconds: float = 0.0
    ttft: float | None = None
    latency: float = 0.0
    tpot: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    compute_seconds: float = 0.0
    price_per_hour: float = 0.0
    cost: float = 0.0
    saved: float = 0.0
    switches: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))


class Job(SQLModel, table=True):
    """Prompts to run, now or on a schedule; the prompts themselves are rows of their own."""

    __tablename__ = "job"
    id: str = Field(default_factory=new_id, primary_key=True)
    name: str
    total: int = 0  # prompts
    system: str = ""
    max_tokens: int = 128
    temperature: float = 0.0
    documents: bool = False
    cron: str | None = None
    next_run: float | None = Field(default=None, index=True)  # when the schedule fires next
    note: str = ""  # what became of the latest firing, where it began no run
    created: float = Field(default_factory=time.time)


class JobPrompt(SQLModel, table=True):
    """One prompt of a job."""

    __tablename__ = "job_prompt"
    job_id: str = Field(foreign_key="job.id", primary_key=True, ondelete="CASCADE")
    position: int = Field(primary_key=True)
    text: str


class RunState(StrEnum):
    """How far a run is; the first three are open, and go on by themselves."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    """For the engine, which is not there: it costs the run nothing but time."""
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobRun(SQLModel, table=True):
    """One execution of a job. What it counts is written together with the results that are counted.

    A job has one open run at most, and an open run is driven by one process at most: its holder, which says again and
    again that it lives.
    """

    __tablename__ = "job_run"
    __table_args__ = (
        Index(
            "uq_job_run_open", "job_id", unique=True, sqlite_where=text("finished IS NULL"),
            postgresql_where=text("finished IS NULL"),
        ),
    )  # fmt: skip
    id: str = Field(default_factory=new_id, primary_key=True)
    job_id: str = Field(foreign_key="job.id", index=True, ondelete="CASCADE")
    state: RunState = Field(
        default=RunState.QUEUED, sa_column=Column(StateType(RunState), nullable=False, index=True)
    )
    total: int = 0
    done: int = 0  # prompts that have a result, be it an error
    failed: int = 0
    cost: float = 0.0
    output_tokens: int = 0
    reason: str = ""  # why it failed, or what it waits for
    holder: str = ""
    heard: float = 0.0  # from its holder
    created: float = Field(default_factory=time.time)
    started: float | None = None
    finished: float | None = None  # null while it is open


class JobResult(SQLModel, table=True):
    """The answer to one prompt of a run; those that are finished together are written together."""

    __tablename__ = "job_result"
    run_id: str = Field(foreign_key="job_run.id", primary_key=True, ondelete="CASCADE")
    position: int = Field(primary_key=True)
    text: str = ""
    error: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0


class Setting(SQLModel, table=True):
    """What a user chose in the console and expects to find again."""

    __tablename__ = "setting"
    key: str = Field(primary_key=True)
    value: Any = Field(default=None, sa_column=Column(JSON))


class ApiKey(SQLModel, table=True):
    """A credential; only its hash is kept."""

    __tablename__ = "api_key"
    id: str = Field(default_factory=new_id, primary_key=True)
    name: str
    prefix: str
    digest: str = Field(unique=True)
    role: str = "admin"  # admin, user, read_only
    tenant: str = ""  # whose chats, private collections and prompt cache it opens
    created: float = Field(default_factory=time.time)
    used: float | None = None


class SignIn(SQLModel, table=True):
    """A person's sign-in with a key, by the hash of what their browser keeps."""

    __tablename__ = "sign_in"
    digest: str = Field(primary_key=True)
    key_id: str = Field(foreign_key="api_key.id", index=True, ondelete="CASCADE")
    created: float = Field(default_factory=time.time)
    expires: float = Field(index=True)
