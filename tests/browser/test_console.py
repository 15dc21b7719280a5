"""The console in a real Chromium: first visit to cited answer, stop, reload in the middle, a broken file."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
from playwright.sync_api import expect

from tests.conftest import ROOT, until

TWO_TICKS_MS = 1000
"""How long a page may take to show that an answer has ended."""


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
    page.goto(f"{site.url}/chat")
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
    engine = site.engine_pid()
    os.kill(engine, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):  # killed meanwhile
            os.kill(engine, signal.SIGCONT)


def is_another(site: Any, dead: int) -> bool:
    """Whether an engine runs that is not the dead one."""
    with contextlib.suppress(StopIteration, psutil.Error):
        return bool(site.engine_pid() != dead)
    return False


def beginning_of_the_answer(page: Any) -> str:
    """The answer's first letters, once enough is written that neither the cursor nor open markup is among them."""
    answer = page.get_by_test_id("stChatMessage").nth(1).get_by_test_id("stMarkdownContainer").first
    answer.filter(has_text=re.compile(r"(\S+\s+){12}")).wait_for()
    return re.sub(r"\W", "", answer.inner_text())[:25]


@contextlib.contextmanager
def in_the_middle(site: Any, page: Any) -> Iterator[str]:
    """The engine stands still while an answer is being written, whose beginning this gives.

    One that ended before is asked for again.
    """
    writing, again = page.get_by_text("▍"), page.get_by_role("button", name="Regenerate")
    while True:
        writing.or_(again).first.wait_for()
        if again.is_visible():
            again.click()
            expect(again).to_have_count(0)
            writing.wait_for()
        before = beginning_of_the_answer(page)
        with paused(site):
            page.wait_for_timeout(TWO_TICKS_MS)
            if writing.is_visible():
                yield before
                return


def press_stop(page: Any) -> None:
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopping…").wait_for()


def stopped(page: Any) -> None:
    page.get_by_text("Stopped.").wait_for()
    page.get_by_role("button", name="Regenerate").wait_for()


def test_a_first_visit_ends_in_a_cited_answer(site: Any, page: Any) -> None:
    """Two presses, from the home of a fresh installation."""
    page.goto(site.url)
    page.get_by_role("button", name="Load the sample documents").click()
    page.get_by_role("button", name=re.compile("How many steps")).click()
    page.get_by_role("button", name="Regenerate").wait_for()
    answer = page.get_by_test_id("stChatMessage").nth(1)
    expect(answer).to_contain_text("182")
    chats = page.get_by_test_id("stSidebar").get_by_role("button", name=re.compile("^How many steps"))
    expect(chats).to_have_count(1)  # one press asks once
    expect(answer).to_contain_text(re.compile(r"first token .* in · .* out"))
    page.get_by_role("button", name=re.compile(r"\[1\] lighthouse")).click()
    passage = page.get_by_test_id("stPopoverBody").filter(has_text="score")
    passage.wait_for()
    handbook = (ROOT / "data" / "samples" / "lighthouse-handbook.md").read_text()
    assert passage.locator("p").last.inner_text().strip()[:60] in handbook


def test_stop_keeps_what_was_written(site: Any, page: Any) -> None:
    begin_a_long_answer(site, page, "Tell me a very long story about the sea.")
    with in_the_middle(site, page) as before:
        press_stop(page)
    stopped(page)
    assert beginning_of_the_answer(page) == before
    page.reload()
    assert beginning_of_the_answer(page) == before


def test_a_reload_and_a_second_tab_show_the_same_answer(site: Any, page: Any) -> None:
    begin_a_long_answer(site, page, "Tell me another very long story about a mountain.")
    with in_the_middle(site, page) as before:
        page.reload()
        assert beginning_of_the_answer(page) == before
        other = page.context.new_page()
        other.goto(page.url)
        assert beginning_of_the_answer(other) == before
        press_stop(other)
    stopped(other)
    expect(page.get_by_text("Stopped.")).to_be_visible()


def test_a_dead_engine_is_said_on_the_page_and_comes_back(site: Any, page: Any) -> None:
    begin_a_long_answer(site, page, "Tell me a third very long story about a desert.")
    with in_the_middle(site, page):
        dead = site.engine_pid()
        os.kill(dead, signal.SIGKILL)
    until(lambda: is_another(site, dead), "another engine is started")
    with paused(site):  # or it might be there before anybody has looked
        page.get_by_text("It is being started again; please retry").wait_for()
        banner = page.get_by_test_id("stAlert").filter(has_text="The engine stopped (")
        expect(banner).to_be_visible()
    site.wait_ready()
    expect(banner).to_have_count(0)
    again = page.get_by_role("button", name="Regenerate")
    again.click()
    expect(again).to_have_count(0)
    with in_the_middle(site, page):
        press_stop(page)
    stopped(page)


def test_a_preset_that_was_pressed_stays(site: Any, page: Any) -> None:
    """The page redraws itself while weights are loaded; what it drew before must not come back as if pressed."""
    page.goto(f"{site.url}/optimize")
    before = httpx.get(f"{site.url}/api/switches").json()["switches"]
    for _ in range(3):
        for i, batch in ((0, 1), (1, 64)):  # Baseline, Balanced
            page.locator(f".st-key-preset-{('Baseline', 'Balanced')[i]} button").click()
            until(lambda b=batch: httpx.get(f"{site.url}/api/switches").json()["switches"]["max_batch"] == b, "it acts")
            page.wait_for_timeout(3000)
            assert httpx.get(f"{site.url}/api/switches").json()["switches"]["max_batch"] == batch
    assert httpx.get(f"{site.url}/api/switches").json()["switches"] == before


def choose(page: Any, name: str) -> None:
    page.get_by_role("radio", name=name).or_(page.get_by_role("button", name=name, exact=True)).first.click()


def test_a_switch_acts_while_the_model_serves(site: Any, page: Any) -> None:
    page.goto(f"{site.url}/optimize")
    page.get_by_text(re.compile(r"^Precision ·")).click()
    choose(page, "int8")
    expect(page.locator(".frame")).to_contain_text("int8 · Custom")
    page.get_by_text("Custom: 1 change from Balanced").wait_for()
    until(lambda: httpx.get(f"{site.url}/healthz").json()["variant"] == "int8", "int8 serves")
    page.get_by_role("button", name="Reset to Balanced").click()
    expect(page.locator(".frame")).to_contain_text(re.compile("(bf16|fp32) · Balanced"))
    page.get_by_text("What was changed in the last 7 days").click()
    expect(page.get_by_test_id("stDataFrame")).to_be_visible()
