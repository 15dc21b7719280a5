"""Addresses that want to know how batches end, and what there is to tell them. Knows nothing of how it is told."""

from __future__ import annotations

import base64
import secrets
from urllib.parse import urlsplit

from sqlmodel import Session, col, select

from backend.errors import ForbiddenError, InvalidInputError, NotFoundError
from backend.store.database import Database
from backend.store.tables.batches import Batch
from backend.store.tables.webhooks import WebhookDelivery, WebhookEndpoint

EVENTS = ("batch.completed", "batch.failed", "batch.expired", "batch.cancelled")
PORTS = {"http": 80, "https": 443}
LONGEST_URL = 2000
MOST_ENDPOINTS = 20
"""Of one tenant."""


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of an address.

    Raises:
        InvalidInputError: it is none that anything could be sent to.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or PORTS.get(parts.scheme, 0)
    except ValueError:
        host, port = None, 0
    printable = url.isascii() and url.isprintable() and " " not in url
    if not (host and port and printable) or parts.username or parts.password or parts.fragment:
        raise InvalidInputError("url must be like https://host/path, without a user or a fragment.", param="url")
    return parts.scheme, host.lower(), port


class Webhooks:
    """The addresses of every tenant.

    Args:
        database: where they are.
        origins: where anything may be delivered, each a scheme, host and port.
    """

    def __init__(self, database: Database, origins: list[str]) -> None:
        self._database = database
        self._allowed = {origin_of(origin) for origin in origins}

    def allows(self, url: str) -> bool:
        """Whether the settings let something be delivered there."""
        return origin_of(url) in self._allowed

    def create(self, tenant: str, *, name: str, url: str, event_types: list[str]) -> WebhookEndpoint:
        """Add an address; its secret is shown this once.

        Raises:
            InvalidInputError: no address, or an event that there is not.
            ForbiddenError: the settings do not let anything be delivered there.
        """
        strange = next((event for event in event_types if event not in EVENTS), None)
        if strange is not None or not event_types:
            raise InvalidInputError(f"event_types are some of {', '.join(EVENTS)}.", param="event_types")
        if len(url) > LONGEST_URL:
            raise InvalidInputError(f"url has more than {LONGEST_URL} characters.", param="url")
        if not self.allows(url):
            raise ForbiddenError(
                "Nothing may be delivered to this address; whoever runs this server allows its origin in "
                "TENFOLD_WEBHOOK_ORIGINS.", param="url", code="address_not_allowed",
            )  # fmt: skip
        if len(self.page(tenant, limit=MOST_ENDPOINTS)) >= MOST_ENDPOINTS:
            raise InvalidInputError(f"There are {MOST_ENDPOINTS} addresses already; delete one.", param="url")
        secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        endpoint = WebhookEndpoint(
            tenant=tenant, name=name, url=url, event_types=list(dict.fromkeys(event_types)), secret=secret
        )
        with self._database.session() as session:
            session.add(endpoint)
        return endpoint

    def get(self, endpoint_id: str, tenant: str) -> WebhookEndpoint:
        """One address of a tenant's.

        Raises:
            NotFoundError: there is none of this id, or it is another's.
        """
        query = select(WebhookEndpoint).where(WebhookEndpoint.id == endpoint_id, WebhookEndpoint.tenant == tenant)
        with self._database.session() as session:
            endpoint = session.exec(query).first()
        if endpoint is None:
            raise NotFoundError(f"There is no webhook endpoint {endpoint_id!r}.")
        return endpoint

    def page(self, tenant: str, *, after: str | None = None, limit: int = 20) -> list[WebhookEndpoint]:
        """Addresses of a tenant's, latest first, behind the one of an id."""
        query = select(WebhookEndpoint).where(WebhookEndpoint.tenant == tenant)
        if after is not None:
            query = query.where(WebhookEndpoint.id < after)
        with self._database.session() as session:
            return list(session.exec(query.order_by(col(WebhookEndpoint.id).desc()).limit(limit)).all())

    def delete(self, endpoint_id: str, tenant: str) -> None:
        """Forget an address, and what it was still to be told. Raises as `get` does."""
        endpoint = self.get(endpoint_id, tenant)
        with self._database.session() as session:
            session.delete(endpoint)


def announce(session: Session, batch: Batch) -> None:
    """Have its tenant's addresses told that a batch has ended: noted in the transaction that ends it."""
    event = f"batch.{batch.status}"
    for endpoint in session.exec(select(WebhookEndpoint).where(WebhookEndpoint.tenant == batch.tenant)).all():
        if event in endpoint.event_types:
            session.add(WebhookDelivery(endpoint_id=endpoint.id, type=event, about=batch.id))
