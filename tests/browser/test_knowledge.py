"""The Knowledge page in a real Chromium: what is dropped is read or says why not, is found, and is deleted together."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from backend.settings import SAMPLES
from tests.browser.conftest import Open, settled
from tests.browser.test_pages import check
from tests.conftest import Server, until

BROKEN = b"PK\x03\x04 not a pdf"
MANY = 30


def rows(page: Any) -> Any:
    return page.locator("[class*=st-key-row-]")


def row(page: Any, name: str) -> Any:
    return rows(page).filter(has=page.get_by_role("button", name=name, exact=True))


def choose(page: Any, name: str) -> None:
    box = page.get_by_role("checkbox", name=f"Choose {name}", exact=True)
    box.focus()
    box.press(" ")
    expect(box).to_be_checked()


def drop(page: Any, name: str, data: bytes) -> None:
    page.locator("input[type=file]").set_input_files({"name": name, "mimeType": "text/plain", "buffer": data})


def delete_chosen(page: Any, count: int) -> None:
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_text("This cannot be undone")).to_be_visible()
    page.get_by_role("button", name=re.compile(f"^Delete {count} document")).click()
    expect(page.get_by_text("This cannot be undone")).to_have_count(0)


def documents(site: Server, collection: str | None = None) -> list[Any]:
    chosen = {} if collection is None else {"collection": collection}
    found: list[Any] = httpx.get(f"{site.url}/api/documents", params=chosen).json()["data"]
    return found


def forget_documents(site: Server) -> None:
    for document in documents(site):
        httpx.delete(f"{site.url}/api/documents/{document['id']}").raise_for_status()
    until(lambda: not documents(site), "no document is left")


@pytest.fixture(scope="module")
def well(site: Server) -> str:
    """A document of two versions."""
    for text in (b"# Well\n\nThe well is nine ells deep.", b"# Well\n\nThe well is twelve ells deep."):
        document = site.wait_document(site.upload("well.md", text)["id"])
    return str(document["id"])


@pytest.mark.parametrize("view", ["Search", "Documents"])
def test_the_samples_are_one_press_away(visit: Open, fresh_site: Server, view: str) -> None:
    with visit(fresh_site) as page:
        page.goto(f"{fresh_site.url}/knowledge?view={view}")
        page.get_by_role("button", name="Load the sample documents").click()
        if view == "Search":
            page.get_by_role("button", name="How many steps does the lighthouse tower have?").click()
            expect(page.get_by_role("button", name=re.compile(r"^1\. lighthouse-handbook\.md"))).to_be_visible()
        else:
            expect(rows(page).filter(has_text="Ready")).to_have_count(len(list(SAMPLES.iterdir())))
        settled(page)
    forget_documents(fresh_site)


def test_a_broken_file_says_why_and_can_be_deleted(site: Server, page: Any) -> None:
    page.goto(f"{site.url}/knowledge")
    drop(page, "photo.pdf", BROKEN)
    expect(row(page, "photo.pdf")).to_contain_text("photo.pdf is not a PDF, although its name says so")
    expect(row(page, "photo.pdf").get_by_role("button", name="Retry")).to_be_visible()
    choose(page, "photo.pdf")
    delete_chosen(page, 1)
    expect(page.get_by_text("photo.pdf")).to_have_count(0)
    assert not any(document["name"] == "photo.pdf" for document in documents(site))


def test_what_was_dropped_stands_on_top_and_says_when_nothing_was_to_be_done(
    site: Server, page: Any, well: str
) -> None:
    page.goto(f"{site.url}/knowledge")
    bell, known = b"# Bell\n\nIt is cracked.", b"# Well\n\nThe well is twelve ells deep."
    for name, data, said in (
        ("bell.md", bell, "Read in"), ("well.md", known, "Nothing to do"), ("twin.md", known, "Nothing to compute"),
    ):  # fmt: skip
        drop(page, name, data)
        expect(rows(page).first).to_contain_text(name)
        expect(rows(page).first).to_contain_text(said)


def test_many_are_found_filtered_and_deleted_together(site: Server, page: Any, well: str) -> None:
    for number in range(MANY):
        site.upload(f"scan {number:02}.pdf", BROKEN)
    page.goto(f"{site.url}/knowledge?state=Failed")
    expect(page.get_by_text(f"{MANY} documents", exact=True)).to_be_visible()
    page.get_by_role("searchbox", name="Find a document by name").fill("SCAN 2")  # in 02, 12 and all from 20 on
    expect(rows(page)).to_have_count(12)
    page.reload()
    expect(rows(page)).to_have_count(12)
    page.get_by_role("searchbox", name="Find a document by name").fill("")
    expect(rows(page)).to_have_count(25)
    settled(page)
    page.get_by_role("checkbox", name="Choose all on this page").press(" ")
    page.get_by_role("button", name=f"Choose all {MANY}").click()
    expect(page.get_by_text(f"{MANY} of {MANY} chosen")).to_be_visible()
    delete_chosen(page, MANY)
    expect(page.get_by_text("No document is like that")).to_be_visible()
    assert "well.md" in {document["name"] for document in documents(site)}


def test_a_press_on_what_another_page_deleted_says_so(site: Server, page: Any) -> None:
    document = site.upload("brief.md", b"# Brief\n\nIt is here for a moment.")["id"]
    site.wait_document(document)
    page.goto(f"{site.url}/knowledge")
    choose(page, "brief.md")
    httpx.delete(f"{site.url}/api/documents/{document}").raise_for_status()
    page.get_by_role("button", name="Read again").click()
    expect(page.get_by_test_id("stAlert")).to_contain_text("There is no document")
    expect(page.get_by_text("brief.md")).to_have_count(0)


def test_a_document_opens_in_a_panel_that_the_address_names_and_a_key_closes(
    site: Server, page: Any, well: str
) -> None:
    page.goto(f"{site.url}/knowledge")
    name = page.get_by_role("button", name="well.md", exact=True)
    name.focus()
    name.press("Enter")
    panel = page.get_by_role("dialog")
    expect(panel).to_contain_text("The well is twelve ells deep")
    page.reload()
    panel.get_by_role("tab", name="Versions").click()
    panel.get_by_text("What version 2 changed").click()
    expect(panel.get_by_text("The well is nine ells deep").first).to_be_visible()
    page.keyboard.press("Escape")
    expect(panel).to_have_count(0)
    expect(page).to_have_url(f"{site.url}/knowledge")


def test_a_search_shows_hits_first_with_similarities_and_why(site: Server, page: Any, well: str) -> None:
    page.goto(f"{site.url}/knowledge?view=Search")
    box = page.get_by_role("searchbox", name="Question")
    box.fill("How deep is the well?")
    box.press("Enter")
    best = page.locator(".st-key-hit-quick-1")
    expect(best).to_contain_text("The well is twelve ells deep")
    expect(best).to_contain_text("has your words")
    page.reload()
    expect(best).to_contain_text("The well is twelve ells deep")
    settled(page)
    said = page.get_by_text(re.compile(r"^similarity \d")).all_inner_texts()
    assert said and all(0 < float(text.split()[-1]) <= 1 for text in said)
    assert page.locator("[class*=st-key-hit-full-]").count() == 0, "a full pass costs, and is made when it is asked for"
    page.get_by_text("Compare with a full pass").click()
    expect(page.locator(".st-key-hit-full-1")).to_contain_text("The well is twelve ells deep")
    best.get_by_role("button", name=re.compile(r"^1\. ")).click()
    expect(page.get_by_role("dialog")).to_contain_text("The well is twelve ells deep")


def test_a_collection_is_made_shown_and_deleted_after_a_question(site: Server, page: Any) -> None:
    tide = {"files": ("tides.md", b"# Tides\n\nHigh water is at noon.")}
    httpx.post(f"{site.url}/api/documents", files=tide, data={"collection": "harbour"}).raise_for_status()
    page.goto(f"{site.url}/knowledge?view=Collections")
    page.get_by_label("Name of a new collection").fill("empty shelf")
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_text("empty shelf · 0 documents")).to_be_visible()
    harbour = page.locator(".st-key-collection-harbour")
    harbour.get_by_role("button", name="Show documents").click()
    expect(rows(page)).to_have_count(1)
    expect(row(page, "tides.md")).to_be_visible()
    page.get_by_role("tab", name="Collections").click()
    harbour.get_by_role("button", name="Delete").click()
    page.get_by_text("Delete the collection harbour, and 1 document?").wait_for()
    page.locator(".st-key-drop-harbour-yes").get_by_role("button").click()
    expect(harbour).to_have_count(0)
    assert "tides.md" not in {document["name"] for document in documents(site)}


@pytest.mark.parametrize("view", ["Search&question=How+deep+is+the+well%3F&compare=true", "Collections"])
def test_a_view_is_sound_at_every_size_and_in_the_dark(visit: Open, site: Server, well: str, view: str) -> None:
    with visit(site) as page:
        drawn = page.get_by_text("default" if view == "Collections" else "A full pass", exact=True)
        check(page, f"{site.url}/knowledge?view={view}", lambda _: expect(drawn).to_be_visible())
