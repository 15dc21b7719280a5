"""One Chromium for every test here, one installation for each file: looked at while it is empty, then lived in.

Whatever a test does there, no page may show an exception, log an error, ask in vain, or ask anybody else.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import expect, sync_playwright

from pages.navigation import PAGES
from tests.conftest import Server

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
HERE = Path(__file__).parent
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
PATIENCE_MS = 120_000
"""What a busy machine may take. Nothing here is compared before the page was given this long to show it."""
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
LOOKS = {"desktop": (DESKTOP, "light"), "phone": (PHONE, "light"), "dark desktop": (DESKTOP, "dark")}
"""The windows in which pages are looked at, and what color scheme their owners prefer."""
PROBE = re.compile(rf"/({'|'.join(PAGES)})/_stcore/(health|host-config)")
"""Streamlit's client takes a page's own address for the server's root first, and 404 for a no. Answered, it would open
its websocket there; so these two refusals are meant."""
LEFT = "net::ERR_ABORTED"
"""How a browser ends what it had asked for on a page that is being left: nobody's failure."""
Open = Callable[..., AbstractContextManager[Any]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test here; those that need an empty installation come first."""
    mine = [number for number, item in enumerate(items) if HERE in item.path.parents]
    tests = sorted((items[number] for number in mine), key=lambda item: "fresh_site" not in item.fixturenames)
    for number, test in zip(mine, tests, strict=True):
        test.add_marker(pytest.mark.browser)
        test.add_marker(pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here and none could be installed"))
        items[number] = test


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path, chat_folder: Path) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("site"), cache_dir).start()
    yield server
    server.stop()


@pytest.fixture
def fresh_site(site: Server) -> Server:
    """The installation, while nobody has used it."""
    assert httpx.get(f"{site.url}/api/documents").json()["data"] == [], "used already"
    return site


@pytest.fixture(scope="package")
def visit(browser: Any) -> Open:
    """Opens a window on a server; when it is left, nothing may have gone wrong in it.

    `meant` are the paths that may be refused.
    """

    @contextmanager
    def window(server: Server, meant: re.Pattern[str] = PROBE, **options: Any) -> Iterator[Any]:
        context = browser.new_context(**{"viewport": DESKTOP, **options})
        context.set_default_timeout(PATIENCE_MS)
        faults = watch(context, server.url, meant)
        try:
            yield context.new_page()
            for page in context.pages:
                faults += page.get_by_test_id("stException").all_inner_texts()
            assert faults == []
        finally:
            context.close()

    return window


@pytest.fixture
def page(visit: Open, site: Server) -> Iterator[Any]:
    with visit(site) as page:
        yield page


def watch(context: Any, url: str, refusable: re.Pattern[str]) -> list[str]:
    """What goes wrong on a window's pages, as it happens."""
    own, faults = urlsplit(url).netloc, []

    def foreign(address: str) -> bool:
        parts = urlsplit(address)
        return parts.scheme not in ("data", "blob") and parts.netloc != own

    def meant(address: str) -> bool:
        return not foreign(address) and refusable.fullmatch(urlsplit(address).path) is not None

    def note(wrong: bool, what: str) -> None:
        if wrong:
            faults.append(what)

    context.on("request", lambda r: note(foreign(r.url), f"asked somebody else: {r.url}"))
    context.on("response", lambda r: note(r.status >= 400 and not meant(r.url), f"{r.status} for {r.url}"))
    context.on("requestfailed", lambda r: note(r.failure != LEFT, f"{r.failure} for {r.url}"))
    context.on("weberror", lambda e: note(True, f"error: {e.error}"))
    context.on(
        "console",
        lambda m: note(m.type == "error" and not meant(m.location["url"]), f"console: {m.text} {m.location}"),
    )
    context.on(
        "page", lambda p: p.on("websocket", lambda s: note(foreign(s.url), f"connected to somebody else: {s.url}"))
    )
    return faults


def barriers(page: Any) -> list[str]:
    """What keeps people from using the page as it is now: axe-core's serious violations, and where they are."""
    page.evaluate(AXE_SCRIPT)
    found = page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
    return [
        f"{rule['id']}: {node['html'][:200]} ({'; '.join(check['message'] for check in node['any'])})"
        for rule in found if rule["impact"] in ("serious", "critical") for node in rule["nodes"]
    ]  # fmt: skip


def settled(page: Any) -> None:
    """Wait until nothing of the page is being computed or loaded."""
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
    expect(page.get_by_test_id("stStatusWidget")).to_have_count(0)
    expect(page.get_by_test_id("stSkeleton")).to_have_count(0)
