"""How addresses are told that a batch has ended: signed, to where the settings allow, again until it is taken."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import openai
import pytest
from sqlmodel import func, select

from backend.batches import deliveries
from backend.batches.deliveries import Deliveries, connected
from backend.batches.webhooks import Webhooks
from backend.errors import ForbiddenError, InvalidInputError, NotFoundError
from backend.store.database import Database
from backend.store.tables.webhooks import WebhookDelivery
from tests.batches.standin import Bench, lines
from tests.conftest import until


class Ear:
    """An address on this machine that keeps what it is told, and answers with statuses in turn, then 200."""

    def __init__(self) -> None:
        self.heard: list[tuple[bytes, dict[str, str]]] = []
        self.statuses: list[int] = []
        ear = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                ear.heard.append((body, {name.lower(): value for name, value in self.headers.items()}))
                self.send_response(ear.statuses.pop(0) if ear.statuses else 200)
                self.send_header("location", f"{ear.origin}/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def ear() -> Iterator[Ear]:
    ear = Ear()
    yield ear
    ear.close()


@pytest.fixture
def told(database: Database, ear: Ear, monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhooks]:
    monkeypatch.setattr(deliveries, "PAUSES", (0.01,) * 3)
    monkeypatch.setattr(deliveries, "LOOK", 0.05)
    webhooks = Webhooks(database, [ear.origin])
    working = Deliveries(database, webhooks)
    working.start()
    yield webhooks
    working.close()


EVERY = ["batch.completed", "batch.failed", "batch.expired", "batch.cancelled"]


def unwrap(secret: str, heard: tuple[bytes, dict[str, str]]) -> Any:
    client = openai.OpenAI(api_key="unused", webhook_secret=secret)
    return client.webhooks.unwrap(*heard)


def test_the_official_client_verifies_what_it_is_told(bench: Bench, told: Webhooks, ear: Ear) -> None:
    endpoint = told.create("me", name="mine", url=f"{ear.origin}/hook?a=b", event_types=EVERY)
    told.create("you", name="theirs", url=f"{ear.origin}/theirs", event_types=EVERY)
    good, bad = bench.create(lines("one")), bench.create(b"{")
    until(lambda: len(ear.heard) == 2, "both are told")
    events = {event.data.id: event for event in (unwrap(endpoint.secret, heard) for heard in ear.heard)}
    assert events[good.id].type == "batch.completed" and events[bad.id].type == "batch.failed"
    assert events[good.id].object == "event" and events[good.id].id.startswith("evt_")
    with pytest.raises(openai.InvalidWebhookSignatureError):
        unwrap("whsec_" + "A" * 44, ear.heard[0])


def test_it_is_told_again_until_it_is_taken_and_no_redirect_is_followed(
    bench: Bench, told: Webhooks, ear: Ear, database: Database
) -> None:
    ear.statuses += [500, 302]
    endpoint = told.create("me", name="mine", url=ear.origin, event_types=["batch.completed"])
    bench.create(lines("one"))
    until(lambda: len(ear.heard) == 3, "it is taken")
    assert len({unwrap(endpoint.secret, heard).id for heard in ear.heard}) == 1, "one event, by its id"
    until(lambda: not waiting(database), "nothing is left to tell")


def test_what_is_never_taken_is_given_up(bench: Bench, told: Webhooks, ear: Ear, database: Database) -> None:
    ear.statuses += [503] * 100
    told.create("me", name="mine", url=ear.origin, event_types=["batch.completed"])
    bench.ended(bench.create(lines("one")))
    until(lambda: not waiting(database), "it is given up")
    assert len(ear.heard) == 4


def waiting(database: Database) -> int:
    with database.session() as session:
        return session.exec(select(func.count()).select_from(WebhookDelivery)).one()


def test_nothing_is_told_to_where_the_settings_do_not_allow(
    bench: Bench, database: Database, ear: Ear, told: Webhooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = Webhooks(database, [])
    for url in (ear.origin, "https://example.com/hook", "http://localhost/", "http://169.254.169.254/latest"):
        with pytest.raises(ForbiddenError, match="TENFOLD_WEBHOOK_ORIGINS"):
            nowhere.create("me", name="x", url=url, event_types=EVERY)
    with pytest.raises(ForbiddenError):
        told.create("me", name="x", url=ear.origin.replace("http:", "https:"), event_types=EVERY)
    for url in ("example.com", "ftp://example.com", "http://a@example.com", "http://exa mple.com", "http://x:y/"):
        with pytest.raises(InvalidInputError):
            told.create("me", name="x", url=url, event_types=EVERY)
    told.create("me", name="x", url=ear.origin, event_types=EVERY)
    monkeypatch.setattr(told, "_allowed", set())  # the settings changed since
    bench.ended(bench.create(lines("one")))
    until(lambda: not waiting(database), "it is given up")
    assert not ear.heard


def test_a_name_that_stands_for_this_machine_is_not_it(monkeypatch: pytest.MonkeyPatch, ear: Ear) -> None:
    port = int(ear.origin.rpartition(":")[2])
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(OSError, match="stands for 127"):
        connected(f"http://hooks.example.com:{port}/")
    connected(f"http://localhost:{port}/").close()


def test_addresses_are_their_tenants_alone(told: Webhooks, ear: Ear) -> None:
    mine = told.create("me", name="mine", url=ear.origin, event_types=EVERY)
    assert [endpoint.id for endpoint in told.page("me")] == [mine.id] and told.page("you") == []
    for refused in (told.get, told.delete):
        with pytest.raises(NotFoundError):
            refused(mine.id, "you")
    told.delete(mine.id, "me")
    assert told.page("me") == []
