"""The ledger at rest: an entry for whatever reached a model and for idle time, its sums, and what they refer to.

Times are integers in nanoseconds (stamps since the epoch), money integers in nano-dollars: sums are exact.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Index, LargeBinary
from sqlmodel import Field, SQLModel

from backend.store.states import StateType


class UsageKind(StrEnum):
    """What was asked of a model, or that nothing was."""

    GENERATE = "generate"
    EMBED = "embed"
    IDLE = "idle"


class Outcome(StrEnum):
    """How a request ended."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"
    CACHED = "cached"
    """A stored answer was given again."""
    REPLY = "reply"
    """The model was not asked."""


class Population(StrEnum):
    """Whose requests: what every page filters by."""

    PEOPLE = "people"
    API = "api"
    BATCH = "batch"
    LAB = "lab"
    EMBEDDING = "embedding"
    IDLE = "idle"


class State(StrEnum):
    """How a request ended, as sums tell it."""

    OK = "ok"
    FAILED = "failed"
    CANCELLED = "cancelled"
    CACHED = "cached"
    """A stored answer was given again."""


def _big(default: int | None = 0) -> Any:
    return Field(default=default, sa_type=BigInteger)


class EntryRow(SQLModel, table=True):
    """One entry of the ledger; see `metering.entry.Entry`, whose fields these are."""

    __tablename__ = "ledger_entry"
    __table_args__ = (
        Index("ix_ledger_entry_finished", "finished_ns"),
        Index("ix_ledger_entry_key", "key_id", "finished_ns"),
        Index("ix_ledger_entry_whose", "population", "state", "finished_ns"),
    )
    id: int | None = Field(default=None, primary_key=True)
    request_id: str = Field(index=True)
    kind: UsageKind = Field(sa_column=Column(StateType(UsageKind), nullable=False))
    population: Population = Field(sa_column=Column(StateType(Population), nullable=False))
    state: State = Field(sa_column=Column(StateType(State), nullable=False))
    source: str
    path: str
    model: str
    variant: str
    key_id: str
    tenant: str
    switches: str
    outcome: Outcome = Field(sa_column=Column(StateType(Outcome), nullable=False))
    finish_reason: str
    error: str
    arrived_ns: int = _big()
    finished_ns: int = _big()
    search_ns: int = _big()
    queue_ns: int = _big()
    prefill_ns: int = _big()
    decode_ns: int = _big()
    compute_ns: int = _big()
    latency_ns: int = _big()
    ttft_ns: int | None = _big(None)
    tpot_ns: int | None = _big(None)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    price_id: int = 0
    cost: int = _big()
    avoided_prefix: int = _big()
    avoided_embedding: int = _big()
    avoided_answer: int = _big()
    avoided_graph: int = _big()
    avoided_speculation: int = _big()


class RollUp(SQLModel, table=True):
    """Sums of the entries that ended in a minute, an hour or a day, and their latencies as histograms."""

    __tablename__ = "ledger_rollup"
    seconds: int = Field(primary_key=True, sa_type=BigInteger)  # 60, 3600 or 86400
    start: int = Field(primary_key=True, sa_type=BigInteger)  # seconds since the epoch, a multiple of `seconds`
    population: Population = Field(sa_column=Column(StateType(Population), primary_key=True))
    state: State = Field(sa_column=Column(StateType(State), primary_key=True))
    requests: int = _big()
    prompt_tokens: int = _big()
    cached_tokens: int = _big()
    output_tokens: int = _big()
    drafted_tokens: int = _big()
    accepted_tokens: int = _big()
    queue_ns: int = _big()
    prefill_ns: int = _big()
    decode_ns: int = _big()
    compute_ns: int = _big()
    cost: int = _big()
    avoided_prefix: int = _big()
    avoided_embedding: int = _big()
    avoided_answer: int = _big()
    avoided_graph: int = _big()
    avoided_speculation: int = _big()
    ttft: bytes = Field(default=b"", sa_column=Column(LargeBinary, nullable=False))
    tpot: bytes = Field(default=b"", sa_column=Column(LargeBinary, nullable=False))
    latency: bytes = Field(default=b"", sa_column=Column(LargeBinary, nullable=False))
    queue: bytes = Field(default=b"", sa_column=Column(LargeBinary, nullable=False))


class KeyDay(SQLModel, table=True):
    """What the requests of a key took on a day (UTC): for lists of keys and for budgets."""

    __tablename__ = "ledger_key_day"
    key_id: str = Field(primary_key=True)
    day: int = Field(primary_key=True, sa_type=BigInteger)  # seconds since the epoch
    requests: int = _big()
    prompt_tokens: int = _big()
    output_tokens: int = _big()
    cost: int = _big()
    last_ns: int = _big()


class SwitchState(SQLModel, table=True):
    """A state of all switches, once, under the fingerprint by which entries name it."""

    __tablename__ = "switch_state"
    fingerprint: str = Field(primary_key=True)
    switches: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    seen_ns: int = _big()


class PriceVersion(SQLModel, table=True):
    """A price that was in force: entries name it by its id, and it is never changed."""

    __tablename__ = "price_version"
    id: int | None = Field(default=None, primary_key=True)
    name: str
    per_hour: int = _big()  # nano-dollars
    source: str = ""
    read: str = ""  # the day on which the figure was read, ISO 8601
    basis: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    since_ns: int = _big()


class MachineSpan(SQLModel, table=True):
    """Time that a server ran under one price, as of its last heartbeat; see `metering.uptime`."""

    __tablename__ = "machine_span"
    id: str = Field(primary_key=True)
    price_id: int
    started_ns: int = _big()
    heartbeat_ns: int = _big()  # since the epoch
    uptime_ns: int = _big()
    due: int = _big()  # uptime × price, nano-dollars
    booked_ns: int = _big()  # of entries, idle ones too
    booked: int = _big()  # nano-dollars of these
    closed: bool = False
