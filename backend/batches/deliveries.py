"""Tells addresses what happened: signed as OpenAI signs, to where the settings allow, again and again for a while.

Nothing is followed: what redirects has not taken the event. A name is looked up once, and what was found is what is
connected to, so that it cannot stand for this machine unless the settings name this machine.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import ipaddress
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from sqlmodel import col, select, update

from backend.batches.webhooks import Webhooks, origin_of
from backend.store.database import Database
from backend.store.tables.webhooks import WebhookDelivery, WebhookEndpoint

log = logging.getLogger(__name__)

TIMEOUT = 10.0
"""Seconds that an address has to answer."""
PAUSES = (5.0, 30.0, 120.0, 600.0, 3600.0, 3600.0 * 6, 3600.0 * 24)
"""Seconds before each further try; after the last, the event is given up."""
TOGETHER = 20
"""Deliveries that are looked up at once."""
LOOK = 5.0
"""Seconds between two looks, where nobody says that there is something."""


def sign(secret: str, event_id: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature` (Standard Webhooks): HMAC-SHA256 over id, time and body."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, b".".join([event_id.encode(), str(timestamp).encode(), body]), hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def event_body(delivery: WebhookDelivery) -> bytes:
    """The event as it is sent."""
    event: dict[str, Any] = {
        "id": delivery.id, "object": "event", "type": delivery.type, "created_at": int(delivery.created),
        "data": {"id": delivery.about},
    }  # fmt: skip
    return json.dumps(event).encode()


def connected(url: str) -> socket.socket:
    """A connection to where an address leads.

    Raises:
        OSError: there is none, or its name stands for this machine although it does not say so.
    """
    scheme, host, port = origin_of(url)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    named = host == "localhost" or _is_address(host)
    for family, kind, protocol, _, address in found:
        there = ipaddress.ip_address(str(address[0]).partition("%")[0])
        if not named and (there.is_loopback or there.is_link_local or there.is_unspecified):
            raise OSError(f"{host} stands for {there}, which is only delivered to where it is named itself")
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(TIMEOUT)
            connection.connect(address)
            if scheme == "https":
                return ssl.create_default_context().wrap_socket(connection, server_hostname=host)
            return connection
        except OSError as error:
            connection.close()
            problem = error
    raise problem


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Deliveries:
    """One thread that delivers.

    Args:
        database: where the events are that are still to be told.
        webhooks: says where anything may be delivered.
    """

    def __init__(self, database: Database, webhooks: Webhooks) -> None:
        self._database, self._webhooks = database, webhooks
        self._changed, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="webhooks", daemon=True)

    def start(self) -> None:
        """Begin; what was not told when the server stopped is told now."""
        self._thread.start()

    def wake(self) -> None:
        """There is something to tell."""
        self._changed.set()

    def close(self) -> None:
        """Stop; what is not told yet is told after the next start."""
        self._closing.set()
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join(2.0)

    def _work(self) -> None:
        while not self._closing.is_set():
            self._changed.clear()
            try:
                busy = self.deliver_due()
            except Exception:
                log.exception("webhooks could not be looked at")
                busy = False
            if not busy:
                self._changed.wait(LOOK)

    def deliver_due(self) -> bool:
        """Try what is due, each once; whether there was any."""
        query = (
            select(WebhookDelivery, WebhookEndpoint)
            .join(WebhookEndpoint)
            .where(WebhookDelivery.due <= time.time())
            .order_by(col(WebhookDelivery.due))
            .limit(TOGETHER)
        )
        with self._database.session() as session:
            rows = session.exec(query).all()
        for delivery, endpoint in rows:
            if self._closing.is_set():
                break
            self._settle(delivery, self._try(delivery, endpoint))
        return bool(rows)

    def _try(self, delivery: WebhookDelivery, endpoint: WebhookEndpoint) -> bool:
        """Whether the address took it."""
        if not self._webhooks.allows(endpoint.url):  # the settings may have changed
            log.warning("%s is not told to %s: its origin is not allowed", delivery.type, endpoint.url)
            return False
        try:
            status = _post(endpoint, delivery)
        except (OSError, http.client.HTTPException) as error:
            log.warning("%s could not be told to %s: %s", delivery.type, endpoint.url, error)
            return False
        if not 200 <= status < 300:
            log.warning("%s was not taken by %s: status %d", delivery.type, endpoint.url, status)
        return 200 <= status < 300

    def _settle(self, delivery: WebhookDelivery, taken: bool) -> None:
        with self._database.session() as session:
            if taken or delivery.tries >= len(PAUSES):
                row = session.get(WebhookDelivery, delivery.id)
                if row is not None:
                    session.delete(row)
                return
            later = update(WebhookDelivery).where(col(WebhookDelivery.id) == delivery.id)
            values = {"tries": delivery.tries + 1, "due": time.time() + PAUSES[delivery.tries]}
            session.connection().execute(later.values(**values))


def _post(
    endpoint: WebhookEndpoint, delivery: WebhookDelivery, connect: Callable[[str], socket.socket] = connected
) -> int:
    body, timestamp = event_body(delivery), int(time.time())
    parts = urlsplit(endpoint.url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT)
    connection.sock = connect(endpoint.url)
    try:
        connection.request(
            "POST", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), body=body,
            headers={
                "content-type": "application/json", "user-agent": "Tenfold", "webhook-id": delivery.id,
                "webhook-timestamp": str(timestamp),
                "webhook-signature": sign(endpoint.secret, delivery.id, timestamp, body),
            },
        )  # fmt: skip
        return connection.getresponse().status
    finally:
        connection.close()
