"""The console in a real Chromium: documents, search, jobs, switches."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
from playwright.sync_api import expect

from tests.conftest import until


def test_a_broken_file_says_why_and_can_be_deleted(site: Any, page: Any) -> None:
    page.goto(f"{site.url}/documents")
    page.locator("input[type=file]").set_input_files(
        [{"name": "photo.pdf", "mimeType": "application/pdf", "buffer": b"PK\x03\x04 not a pdf"}]
    )
    page.get_by_text("photo.pdf is not a PDF, although its name says so").wait_for()
    page.locator(".stMarkdownBadge", has_text="failed").wait_for()
    expect(page.get_by_role("button", name="Retry")).to_have_count(1)
    row = page.get_by_test_id("stVerticalBlock").filter(has=page.get_by_role("button", name="Retry")).last
    row.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("photo.pdf")).to_have_count(0)


def test_a_press_on_what_another_page_deleted_says_so(site: Any, page: Any) -> None:
    document = site.upload("brief.md", b"# Brief\n\nIt is here for a moment.")["id"]
    site.wait_document(document)
    page.goto(f"{site.url}/documents")
    delete = page.locator(f".st-key-delete-{document}").get_by_role("button")
    delete.wait_for()
    httpx.delete(f"{site.url}/api/documents/{document}").raise_for_status()
    delete.click()
    expect(page.get_by_test_id("stAlert")).to_contain_text("There is no document")
    expect(page.get_by_text("brief.md")).to_have_count(0)


def test_a_new_version_and_what_it_changed_are_shown(site: Any, page: Any) -> None:
    for text in (b"# Well\n\nThe well is nine ells deep.", b"# Well\n\nThe well is twelve ells deep."):
        site.wait_document(site.upload("well.md", text)["id"])
    page.goto(f"{site.url}/documents")
    page.get_by_text("version 2").wait_for()
    page.get_by_test_id("stButton").get_by_role("button", name="Open").first.click()
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
    graph = page.get_by_test_id("stColumn").filter(has=page.get_by_role("heading", name="Over the graph"))
    best = graph.get_by_test_id("stVerticalBlock").filter(has_text=re.compile(r"1\. well\.md")).last
    expect(best).to_contain_text("The well is thirteen ells deep")
    expect(best.locator(".stMarkdownBadge", has_text="near")).to_be_visible()
    expect(page.get_by_text("Chunks looked at")).to_be_visible()


def test_a_job_runs_and_its_result_can_be_downloaded(site: Any, page: Any) -> None:
    page.goto(f"{site.url}/jobs")
    page.get_by_label("… or type them").fill("Say one.\nSay two.")
    page.get_by_label("… or type them").blur()
    page.get_by_role("button", name="Run now").click()
    page.get_by_text("done", exact=True).wait_for()
    with page.expect_download() as download:
        page.get_by_role("link", name="Result").click()
    results = [json.loads(line) for line in download.value.path().read_text().splitlines()]
    assert [result["prompt"] for result in results] == ["Say one.", "Say two."]
    assert all(result["response"] for result in results)


def test_a_preset_that_was_pressed_stays(site: Any, page: Any) -> None:
    """The page redraws itself while weights are loaded; what it drew before must not come back as if pressed."""
    page.goto(f"{site.url}/optimizations")
    before = httpx.get(f"{site.url}/api/switches").json()["switches"]
    for _ in range(3):
        for i, batch in ((0, 1), (1, 64)):  # Baseline, Balanced
            page.locator(f".st-key-preset-{('Baseline', 'Balanced')[i]} button").click()
            until(lambda b=batch: httpx.get(f"{site.url}/api/switches").json()["switches"]["max_batch"] == b, "it acts")
            page.wait_for_timeout(3000)
            assert httpx.get(f"{site.url}/api/switches").json()["switches"]["max_batch"] == batch
    assert httpx.get(f"{site.url}/api/switches").json()["switches"] == before


def test_a_switch_acts_while_the_model_serves(site: Any, page: Any) -> None:
    page.goto(f"{site.url}/optimizations")
    page.get_by_role("heading", level=1).wait_for()
    page.get_by_role("radio", name="int8").or_(page.get_by_role("button", name="int8")).first.click()
    page.get_by_text("in int8 on").wait_for()
    assert httpx.get(f"{site.url}/healthz").json()["variant"] == "int8"
    page.get_by_role("radio", name="auto").or_(page.get_by_role("button", name="auto")).first.click()
    page.get_by_text(re.compile("in (bf16|fp32) on")).wait_for()
