"""A server that asks for keys, in a browser: the first key lets its owner in, and each role is shown its pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from tests.browser.conftest import LOOKS, PHONE, Open, settled
from tests.conftest import Server, until


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path, chat_folder: Path) -> Iterator[Server]:
    """Nothing here waits for the model: people sign in while it is being loaded."""
    server = Server(tmp_path_factory.mktemp("guarded"), cache_dir, TENFOLD_REQUIRE_KEYS="true").start(ready=False)
    until(lambda: first_key(server), "the first key is shown where the server was started", 120)
    yield server
    server.stop()


def first_key(server: Server) -> str:
    found = re.search(r"^\s+(tf-\S+)$", server.log.read_text(), re.M)
    return found[1] if found else ""


def sign_in(page: Any, key: str) -> None:
    page.get_by_label("Key").fill(key)
    page.get_by_role("button", name="Sign in").click()


def new_key(page: Any, server: Server, role: str) -> str:
    """A key made on the page of an administrator; once the engine serves, since a list that is open closes then."""
    server.wait_ready()
    page.goto(f"{server.url}/sign-in?next=/connect")
    sign_in(page, first_key(server))
    page.get_by_label("Name of a new key").fill(role)
    option = page.get_by_role("option", name=re.compile(role))

    def opened() -> bool:
        """A page that is drawn anew closes a list that is open."""
        page.get_by_label("It may").click()
        page.wait_for_timeout(500)
        return bool(option.is_visible())

    until(opened, "the list of roles is open")
    option.click()
    page.get_by_role("button", name="Create a key").click()
    return str(page.get_by_test_id("stCode").filter(has_text=re.compile(r"^tf-")).inner_text()).strip()


def pages_of(page: Any) -> list[str]:
    links = page.get_by_test_id("stSidebarNavLink")
    expect(links.first).to_be_attached()
    settled(page)
    return [" ".join(text.split("\n")[-1:]) for text in links.all_inner_texts()]


def test_a_stranger_is_asked_for_a_key(visit: Open, guarded: Server) -> None:
    with visit(guarded, re.compile("/|/sign-in"), viewport=PHONE, is_mobile=True, has_touch=True) as page:
        page.goto(guarded.url)
        sign_in(page, "tf-wrong")
        expect(page.get_by_role("alert")).to_have_text("This key is not valid.")
        for look, (size, scheme) in LOOKS.items():
            page.set_viewport_size(size)
            page.emulate_media(color_scheme=scheme)
            assert page.locator("html").evaluate("e => e.scrollWidth - e.clientWidth") <= 0, look
    with visit(guarded, viewport=PHONE, is_mobile=True, has_touch=True) as page:
        page.goto(f"{guarded.url}/sign-in?next=/knowledge")
        sign_in(page, first_key(guarded))
        expect(page.get_by_role("heading", name="Knowledge")).to_be_visible()
        settled(page)


@pytest.mark.parametrize(
    ("role", "shown"),
    [("chat, use documents", ["Overview", "Chat", "Knowledge", "Jobs", "Monitor", "Connect"]),
     ("look and search", ["Overview", "Knowledge", "Monitor", "Connect"])],
)  # fmt: skip
def test_a_key_shows_what_its_role_may(visit: Open, guarded: Server, role: str, shown: list[str]) -> None:
    with visit(guarded) as admin:
        key = new_key(admin, guarded, role)
    with visit(guarded) as page:
        page.goto(f"{guarded.url}/sign-in")
        sign_in(page, key)
        assert pages_of(page) == shown
        page.goto(f"{guarded.url}/connect")
        expect(page.get_by_role("heading", name="Connect", exact=True)).to_be_visible()
        settled(page)
        expect(page.get_by_role("heading", name="Keys")).to_have_count(0)


def test_a_private_collection_is_its_owners_alone(visit: Open, guarded: Server) -> None:
    keys = []
    for _ in range(2):
        with visit(guarded) as admin:
            keys.append(new_key(admin, guarded, "chat, use documents"))
    for key, owner in zip(keys, (True, False), strict=True):
        with visit(guarded) as page:
            page.goto(f"{guarded.url}/sign-in?next=/knowledge")
            sign_in(page, key)
            if owner:
                into = page.get_by_role("combobox", name="Into collection")
                into.fill("diary")
                into.press("Enter")
                page.get_by_role("button", name="Options").click()
                page.locator("label", has_text="A new collection is private").click()
                page.keyboard.press("Escape")
                settled(page)
                page.locator("input[type=file]").set_input_files(
                    {"name": "key.txt", "mimeType": "text/plain", "buffer": b"It lies under the third stone."}
                )
                expect(page.get_by_text("🔒 diary").first).to_be_visible()
            else:
                expect(page.get_by_role("heading", name="No documents yet")).to_be_visible()
            settled(page)
            expect(page.get_by_role("button", name="key.txt", exact=True)).to_have_count(1 if owner else 0)


def test_a_chat_and_a_job_say_that_their_keys_budget_is_used_up(visit: Open, guarded: Server) -> None:
    with visit(guarded) as admin:
        key = new_key(admin, guarded, "chat, use documents")
    with httpx.Client(base_url=guarded.url, headers={"authorization": f"Bearer {first_key(guarded)}"}) as api:
        own = next(row for row in api.get("/api/keys").json()["data"] if key.startswith(row["prefix"]))
        assert api.patch(f"/api/keys/{own['id']}", json={"day_dollars": 0}).status_code == 200
        api.post("/api/jobs", json={"name": "a job", "prompts": ["Say one."]}).raise_for_status()
    said = re.compile(r"has used its budget of \$0 for this day")
    with visit(guarded) as page:
        page.goto(f"{guarded.url}/sign-in?next=/chat")
        sign_in(page, key)
        box = page.get_by_test_id("stChatInputTextArea")
        box.fill("Hello")
        box.press("Enter")
        expect(page.get_by_test_id("stChatMessage").get_by_text(said)).to_be_visible()
        settled(page)
        page.goto(f"{guarded.url}/jobs")
        page.get_by_role("button", name="Run now").click()
        expect(page.get_by_text(said)).to_be_visible()
        settled(page)


def test_a_revoked_key_ends_its_open_page(browser: Any, visit: Open, guarded: Server) -> None:
    with visit(guarded) as admin:
        key = new_key(admin, guarded, "look and search")
        page = browser.new_page()
        page.goto(f"{guarded.url}/sign-in")
        sign_in(page, key)
        settled(page)
        admin.get_by_role("button", name="Revoke").first.click()
        admin.get_by_test_id("stPopoverBody").get_by_role("button", name="Revoke").click()
        expect(page.get_by_test_id("stApp")).not_to_have_attribute("data-test-connection-state", "CONNECTED")
        page.reload()
        expect(page.get_by_role("button", name="Sign in")).to_be_visible()
        page.close()
