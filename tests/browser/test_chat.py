"""Chat in a real Chromium: first visit to cited answer, stop, reload in the middle, branches, sources, settings."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from typing import Any

import psutil
from playwright.sync_api import expect

from tests.browser.conftest import PHONE, settled
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


def without_documents(page: Any) -> None:
    """Have the open chat answer from its own head."""
    page.get_by_role("button", name="Documents:").click()
    from_documents = page.get_by_role("switch", name="Answer from documents")
    from_documents.wait_for()
    if from_documents.is_checked():
        page.get_by_text("Answer from documents").click()
        page.get_by_role("button", name="Documents: off").wait_for()
    page.keyboard.press("Escape")


def begin_a_long_answer(site: Any, page: Any, text: str) -> None:
    page.goto(f"{site.url}/chat")
    without_documents(page)
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


def answers(page: Any, count: int) -> None:
    """Wait until so many answers are there, and none is being written."""
    settled(page)  # what a press has just replaced stands there until the page is drawn
    expect(page.get_by_role("button", name="Regenerate")).to_have_count(count)
    expect(page.get_by_role("button", name="Stop")).to_have_count(0)
    settled(page)


def with_short_answers(page: Any) -> None:
    """Have the open chat answer from its own head, in 16 tokens."""
    without_documents(page)
    page.get_by_role("button", name="Settings").click()
    set_slider(page, "Longest answer", "Home", 1)
    page.get_by_text("≤ 16 tokens").wait_for()
    page.keyboard.press("Escape")


def question(page: Any, number: int) -> Any:
    return page.get_by_test_id("stChatMessage").nth(number).get_by_test_id("stText")


def test_one_press_on_a_first_visit_ends_in_a_cited_answer(site: Any, page: Any) -> None:
    page.goto(site.url)
    page.get_by_role("button", name="Load the sample documents").wait_for()
    page.get_by_role("button", name=re.compile("How many steps")).click()
    answers(page, 1)
    answer = page.get_by_test_id("stChatMessage").nth(1)
    chats = page.get_by_test_id("stSidebar").get_by_role("button", name=re.compile("^How many steps"))
    expect(chats).to_have_count(1)  # one press asks once
    expect(answer).to_contain_text("182")
    expect(answer).to_contain_text(re.compile(r"first token .* in · .* out"))
    expect(page.get_by_test_id("stChatInputTextArea")).to_be_focused()


def test_a_mark_and_a_source_open_the_passage_with_the_sentence_marked(site: Any, page: Any) -> None:
    page.goto(f"{site.url}/chat")
    page.get_by_role("button", name=re.compile("How many steps")).last.click()
    answers(page, 1)
    expect(page.get_by_test_id("stChatInputTextArea")).to_be_focused()  # once; from then on it is the reader's to move
    for way in (page.get_by_role("link", name="[1]"), page.get_by_role("button", name=re.compile(r"\[1\] lighthouse"))):
        way.first.focus()
        page.keyboard.press("Enter")
        panel = page.get_by_role("dialog")
        expect(panel).to_contain_text(re.compile(r"Part \d+ of 3 · similarity"))
        sentence = panel.locator(".stMarkdownColoredBackground")
        expect(sentence).to_contain_text("182 steps")
        handbook = (ROOT / "data" / "samples" / "lighthouse-handbook.md").read_text()
        assert sentence.inner_text().strip() in handbook
        page.keyboard.press("Escape")
        expect(panel).to_have_count(0)


def test_an_edited_question_and_another_answer_keep_what_was(site: Any, page: Any) -> None:
    page.goto(f"{site.url}/chat")
    with_short_answers(page)
    ask(page, "Name a colour.")
    answers(page, 1)
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Edit the question").fill("Name a number.")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(question(page, 0)).to_have_text("Name a number.")
    answers(page, 1)
    page.get_by_role("button", name="Regenerate").click()
    expect(page.get_by_text("2 / 2")).to_have_count(2)
    answers(page, 1)
    page.get_by_role("button", name="Previous version").first.click()
    expect(question(page, 0)).to_have_text("Name a colour.")
    page.get_by_role("button", name="Next version").first.click()
    expect(question(page, 0)).to_have_text("Name a number.")
    expect(page.get_by_text("2 / 2")).to_have_count(2)


def test_a_cut_answer_says_so_and_goes_on(site: Any, page: Any) -> None:
    page.goto(f"{site.url}/chat")
    with_short_answers(page)
    ask(page, "Write a long story about a fox.")
    page.get_by_text("Cut at the longest answer allowed").wait_for()
    answer = page.get_by_test_id("stChatMessage").nth(1).get_by_test_id("stMarkdownContainer").first
    begun = answer.inner_text()
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_test_id("stChatMessage").nth(1)).to_contain_text(" 32 out")
    assert answer.inner_text().startswith(begun) and len(answer.inner_text()) > len(begun)
    expect(page.get_by_test_id("stChatMessage")).to_have_count(2)


def test_chat_draft_and_settings_are_there_after_another_page(site: Any, page: Any) -> None:
    page.goto(f"{site.url}/chat")
    with_short_answers(page)
    ask(page, "Name a river.")
    answers(page, 1)
    address = page.url
    assert "?c=" in address
    page.get_by_test_id("stChatInputTextArea").fill("And a lake")
    page.get_by_role("link", name="Jobs").click()
    page.get_by_role("button", name="New job").wait_for()
    page.get_by_role("link", name="Chat", exact=True).click()
    expect(question(page, 0)).to_have_text("Name a river.")
    expect(page.get_by_test_id("stChatInputTextArea")).to_have_value("And a lake")
    expect(page.get_by_text("≤ 16 tokens")).to_be_visible()
    assert page.url == address
    page.get_by_role("button", name="New chat").click()
    expect(page.get_by_text("≤ 16 tokens")).to_have_count(0)
    expect(page.get_by_test_id("stChatInputTextArea")).to_have_value("")
    expect(page.get_by_test_id("stChatInputTextArea")).to_be_focused()


def test_a_question_sent_meanwhile_waits_and_can_be_taken_back(site: Any, page: Any) -> None:
    begin_a_long_answer(site, page, "Tell me a long story about a lake.")
    with in_the_middle(site, page):
        ask(page, "Name a tree.")
        page.get_by_text("Sent when the answer above is done").wait_for()
        page.get_by_role("button", name="Take back").click()
        expect(page.get_by_test_id("stChatInputTextArea")).to_have_value("Name a tree.")
        press_stop(page)
    stopped(page)
    expect(page.get_by_test_id("stChatMessage")).to_have_count(2)


def test_deleting_asks_first_and_a_title_and_a_file_can_be_had(site: Any, page: Any) -> None:
    page.goto(f"{site.url}/chat")
    with_short_answers(page)
    ask(page, "Name a bird.")
    answers(page, 1)
    menu = page.get_by_role("button", name="Menu of Name a bird.")
    menu.click()
    page.get_by_text("Rename", exact=True).click()
    page.get_by_label("Title").fill("Birds")
    page.get_by_label("Title").press("Enter")
    menu = page.get_by_role("button", name="Menu of Birds")
    menu.click()
    with page.expect_download() as download:
        page.get_by_text("Export", exact=True).click()
    assert download.value.path().read_text().startswith("# Birds")
    menu.click()
    page.get_by_text("Delete", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_have_count(0)
    expect(question(page, 0)).to_have_text("Name a bird.")
    menu.click()
    page.get_by_text("Delete", exact=True).click()
    dialog.get_by_role("button", name="Delete").click()
    expect(menu).to_have_count(0)
    page.get_by_role("heading", name="What would you like to know?").wait_for()


def test_an_answer_is_copied(site: Any, page: Any) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"{site.url}/chat")
    with_short_answers(page)
    ask(page, "Name a fish.")
    answers(page, 1)
    page.get_by_role("button", name="Copy", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").filter(has_text="Copied")).to_have_count(1)
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied and copied[:10] in page.get_by_test_id("stChatMessage").nth(1).inner_text()


def test_a_phones_sidebar_closes_after_a_choice(site: Any, visit: Any) -> None:
    with visit(site, viewport=PHONE) as page:
        page.goto(f"{site.url}/chat")
        page.get_by_test_id("stExpandSidebarButton").click()
        page.locator("[class*=st-key-open-]").get_by_role("button").first.click()
        question(page, 0).wait_for()
        expect(page.get_by_test_id("stSidebar")).to_have_attribute("data-collapsed", "true")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


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
