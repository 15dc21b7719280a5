"""The console in a real Chromium: first visit to cited answer, stop, reload in the middle, a broken file."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.conftest import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here and none could be installed"),
]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


PATIENCE_MS = 60_000
"""What a busy machine may take. Nothing here is compared before the page was given this long to show it."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, cache_dir: Any, chat_folder: Any) -> Iterator[Any]:
    from tests.conftest import Server

    server = Server(tmp_path_factory.mktemp("site"), cache_dir).start()
    yield server
    server.stop()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    yield page
    context.close()


def ask(page: Any, text: str) -> None:
    box = page.get_by_test_id("stChatInputTextArea")
    box.fill(text)
    box.press("Enter")


def set_slider(page: Any, label: str, key: str, presses: int) -> None:
    thumb = page.get_by_role("slider", name=label)
    thumb.focus()
    for _ in range(presses):
        thumb.press(key)


def begin_a_long_answer(site: Any, page: Any, text: str) -> None:
    page.goto(site.url)
    from_documents = page.get_by_role("switch", name="Answer from documents")
    from_documents.wait_for()
    if from_documents.is_enabled():
        page.get_by_text("Answer from documents").click()
    page.get_by_role("button", name="Settings").click()
    set_slider(page, "Temperature", "ArrowRight", 13)
    set_slider(page, "Longest answer", "End", 1)
    page.keyboard.press("Escape")
    ask(page, text)


@contextlib.contextmanager
def paused(site: Any) -> Iterator[None]:
    """The engine stands still meanwhile."""
    os.kill(site.engine_pid(), signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(site.engine_pid(), signal.SIGCONT)


def beginning_of_the_answer(page: Any) -> str:
    """The answer's first letters, once enough is written that neither the cursor nor open markup is among them."""
    answer = page.get_by_test_id("stChatMessage").nth(1)
    answer.filter(has_text=re.compile(r"(\S+\s+){12}")).wait_for()
    return re.sub(r"\W", "", answer.inner_text())[:15]


def test_a_first_visit_ends_in_a_cited_answer(site: Any, page: Any) -> None:
    page.goto(site.url)
    page.get_by_role("button", name="Load the sample documents").click()
    page.get_by_role("button", name=re.compile("How many steps")).click()
    page.get_by_role("button", name="Regenerate").wait_for()
    answer = page.get_by_test_id("stChatMessage").nth(1)
    expect(answer).to_contain_text("182")
    expect(answer).to_contain_text(re.compile(r"first token .* in · .* out"))
    page.get_by_role("button", name=re.compile(r"\[1\] lighthouse")).click()
    passage = page.get_by_test_id("stPopoverBody").filter(has_text="score")
    passage.wait_for()
    handbook = (ROOT / "data" / "samples" / "lighthouse-handbook.md").read_text()
    assert passage.locator("p").last.inner_text().strip()[:60] in handbook


def test_stop_keeps_what_was_written(site: Any, page: Any) -> None:
    begin_a_long_answer(site, page, "Tell me a very long story about the sea.")
    page.get_by_text("▍").wait_for()
    with paused(site):  # or the answer might end before it is stopped
        page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped.").wait_for()
    page.get_by_role("button", name="Regenerate").wait_for()


def test_a_reload_and_a_second_tab_show_the_same_answer(site: Any, page: Any) -> None:
    begin_a_long_answer(site, page, "Tell me another very long story about a mountain.")
    before = beginning_of_the_answer(page)
    page.reload()
    assert beginning_of_the_answer(page) == before
    other = page.context.new_page()
    other.goto(page.url)
    assert beginning_of_the_answer(other) == before


def test_a_dead_engine_is_said_on_the_page_and_comes_back(site: Any, page: Any) -> None:
    begin_a_long_answer(site, page, "Tell me a third very long story about a desert.")
    page.get_by_text("▍").wait_for()
    os.kill(site.engine_pid(), signal.SIGKILL)
    page.get_by_text("It is being started again; please retry").wait_for()
    page.get_by_text(re.compile("is being started again|model is being loaded")).first.wait_for()
    site.wait_ready(30)
    page.get_by_role("button", name="Regenerate").click()
    page.get_by_text("▍").wait_for()
    with paused(site):
        page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped.").wait_for()


def test_a_broken_file_says_why_and_can_be_deleted(site: Any, page: Any) -> None:
    page.goto(f"{site.url}/documents")
    page.locator("input[type=file]").set_input_files(
        [{"name": "photo.pdf", "mimeType": "application/pdf", "buffer": b"PK\x03\x04 not a pdf"}]
    )
    page.get_by_text("photo.pdf is not a PDF, although its name says so").wait_for()
    page.locator(".stMarkdownBadge", has_text="failed").wait_for()
    expect(page.get_by_role("button", name="Retry")).to_have_count(1)


def test_a_new_version_and_what_it_changed_are_shown(site: Any, page: Any) -> None:
    for text in (b"# Well\n\nThe well is nine ells deep.", b"# Well\n\nThe well is twelve ells deep."):
        site.wait_document(site.upload("well.md", text)["id"])
    page.goto(f"{site.url}/documents")
    page.get_by_text("version 2").wait_for()
    page.get_by_role("button", name="Open").first.click()
    page.get_by_text("The well is twelve ells deep").first.wait_for()
    page.get_by_role("tab", name="Versions").click()
    page.get_by_text("What version 2 changed").click()
    page.get_by_text("The well is nine ells deep").first.wait_for()


def test_the_search_shows_what_it_found_and_why(site: Any, page: Any) -> None:
    site.wait_document(site.upload("well.md", b"# Well\n\nThe well is thirteen ells deep.")["id"])
    page.goto(f"{site.url}/retrieval")
    box = page.get_by_label("Question")
    box.fill("How deep is the well?")
    box.press("Enter")
    page.get_by_text("Over the graph").wait_for()
    page.get_by_text(re.compile(r"^1\. well\.md")).first.wait_for()
    page.locator(".stMarkdownBadge", has_text="near").first.wait_for()
    expect(page.get_by_text("Chunks looked at")).to_have_count(1)


@pytest.mark.parametrize("name", ["documents", "retrieval", "jobs", "dashboard", "optimizations", "connect"])
@pytest.mark.parametrize("width", [1440, 390])
def test_every_page_is_drawn_without_an_error(site: Any, page: Any, name: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{site.url}/{name}")
    page.get_by_role("heading", level=1).wait_for()
    page.wait_for_timeout(1500)
    assert page.get_by_test_id("stException").count() == 0
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0, "the page is wider than the window"


def test_a_job_runs_and_its_result_can_be_downloaded(site: Any, page: Any) -> None:
    page.goto(f"{site.url}/jobs")
    page.get_by_label("… or type them").fill("Say one.\nSay two.")
    page.get_by_label("… or type them").blur()
    page.get_by_role("button", name="Run now").click()
    page.get_by_text("done", exact=True).wait_for()
    with page.expect_download() as download:
        page.get_by_role("link", name="Result").click()
    assert download.value.path().read_text().count("\n") == 2


def test_a_switch_acts_at_once(site: Any, page: Any) -> None:
    page.goto(f"{site.url}/optimizations")
    page.get_by_role("heading", level=1).wait_for()
    page.get_by_role("radio", name="int8").or_(page.get_by_role("button", name="int8")).first.click()
    page.get_by_text("in int8 on").wait_for()
    page.get_by_role("radio", name="auto").or_(page.get_by_role("button", name="auto")).first.click()
    page.get_by_text(re.compile("in (bf16|fp32) on")).wait_for()
