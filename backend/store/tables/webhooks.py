"""Addresses that are told of events, and the events that are still to be told."""

from __future__ import annotations

import time

from sqlalchemy import JSON, Column
from sqlmodel import Field, SQLModel

from backend.store.ids import ordered_id


class WebhookEndpoint(SQLModel, table=True):
    """An address of a tenant's. Its secret has to be there to sign with, so it is kept as it is."""

    __tablename__ = "webhook_endpoint"
    id: str = Field(default_factory=lambda: f"we_{ordered_id()}", primary_key=True)
    tenant: str = Field(index=True)
    name: str
    url: str
    event_types: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    secret: str
    created: float = Field(default_factory=time.time)


class WebhookDelivery(SQLModel, table=True):
    """An event that an address has not taken yet; gone once it has, or was tried often enough."""

    __tablename__ = "webhook_delivery"
    id: str = Field(default_factory=lambda: f"evt_{ordered_id()}", primary_key=True)
    endpoint_id: str = Field(foreign_key="webhook_endpoint.id", index=True, ondelete="CASCADE")
    type: str
    about: str  # id of what happened to
    created: float = Field(default_factory=time.time)
    tries: int = 0
    due: float = Field(default=0.0, index=True)
