"""Every page, of a fresh installation and of one that is lived in, is drawn whole at each size and in the dark."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from backend.settings import SAMPLES
from pages.navigation import PAGES
from tests.browser.conftest import LOOKS, Open, barriers, settled
from tests.conftest import Server, until

Drawn = Callable[[Any], None]


def heading(text: str | re.Pattern[str]) -> Drawn:
    return lambda page: expect(page.get_by_role("heading", name=text)).to_be_visible()


def says(text: str | re.Pattern[str]) -> Drawn:
    return lambda page: expect(page.get_by_text(text).first).to_be_visible()


FRESH: dict[str, Drawn] = {
    "chat": heading("What would you like to know?"),
    "knowledge": heading("No documents yet"),
    "jobs": says("No jobs yet"),
    "overview": heading("Three steps to your first figures"),
    "monitor": heading("Nothing to show yet"),
    "optimize": says("not measured yet"),
    "connect": heading("Keys"),
    "settings": heading("Storage"),
}
"""By page, what it shows when nothing was done yet."""


def knowledge(page: Any) -> None:
    says("photo.pdf is not a PDF")(page)
    settled(page)
    page.get_by_role("button", name="lighthouse-handbook.md", exact=True).click()
    page.get_by_role("dialog").get_by_role("tab", name="Versions").wait_for()


def charts(page: Any) -> None:
    expect(page.locator(".js-plotly-plot")).to_have_count(4)
    says("Whole answer, median · p95")(page)


def overview(page: Any) -> None:
    heading(re.compile(r"You pay \$\s[\d.]+ per million tokens"))(page)
    says("Requests today")(page)
    expect(page.locator(".js-plotly-plot")).to_have_count(1)


LIVED_IN: dict[str, Drawn] = {
    "chat": lambda page: expect(page.get_by_role("button", name=re.compile(r"\[1\] lighthouse"))).to_be_visible(),
    "knowledge": knowledge,
    "jobs": lambda page: expect(page.locator(".stMarkdownBadge", has_text="done").first).to_be_visible(),
    "overview": overview,
    "monitor": charts,
    "optimize": FRESH["optimize"],
    "settings": FRESH["settings"],
    "connect": says("billing service"),
}
"""By page, what is done there, and what it shows then."""
BACKGROUND = {"light": "rgb(255, 255, 255)", "dark": "rgb(15, 21, 28)"}
SCROLLED = "html, [data-testid=stMain], [data-testid=stAppScrollToBottomContainer]"
FITS = "elements => elements.every(element => element.scrollWidth <= element.clientWidth)"
FOREIGN_ICONS = """[...document.querySelectorAll("link[rel~=icon]")].map(link => new URL(link.href))
    .filter(url => url.protocol != "data:" && url.host != location.host).map(String)"""


def check(page: Any, address: str, drawn: Drawn) -> None:
    """A page shows what it should, fits its window, is as dark as is asked for, and keeps nobody out, in each look."""
    page.goto(address)
    drawn(page)
    settled(page)
    for look, (size, scheme) in LOOKS.items():
        page.set_viewport_size(size)
        page.emulate_media(color_scheme=scheme)
        expect(page.get_by_test_id("stApp")).to_have_css("background-color", BACKGROUND[scheme])
        until(lambda: page.locator(SCROLLED).evaluate_all(FITS), f"{address} fits a {look}")
        assert barriers(page) == [], f"{address} on a {look}"
    assert page.get_by_test_id("stException").all_inner_texts() == []
    assert page.evaluate(FOREIGN_ICONS) == [], "a browser asks for icons where no test sees it"


def test_every_page_of_a_fresh_installation_is_sound(visit: Open, fresh_site: Server) -> None:
    with visit(fresh_site) as page:
        for name in PAGES:
            check(page, f"{fresh_site.url}/{name}", FRESH[name])


def test_every_link_of_a_fresh_installation_leads_somewhere(visit: Open, fresh_site: Server) -> None:
    with visit(fresh_site) as page:
        page.goto(f"{fresh_site.url}/monitor")
        page.get_by_test_id("stMain").get_by_role("link", name="Begin on Overview").click()
        FRESH["overview"](page)
        for name, (title, *_) in reversed(PAGES.items()):
            page.get_by_test_id("stSidebarNav").get_by_role("link", name=title, exact=True).click()
            FRESH[name](page)
            settled(page)
        page.goto(f"{fresh_site.url}/connect")
        links = page.get_by_test_id("stMain").locator("p a")
        expect(links.first).to_be_visible()
        for address in [link.get_attribute("href") for link in links.all()]:
            answer = page.goto(address)
            assert answer.status == 200, address
            expect(page.locator("body")).to_contain_text(re.compile(r"\w{3}"))


@pytest.fixture(scope="module")
def chat_address(visit: Open, site: Server) -> str:
    """Of a chat that quotes documents, after a job, a key, calls of programs, and a file that nobody can read."""
    site.upload("photo.pdf", b"PK\x03\x04 not a pdf")
    tide = {"files": ("tides.md", b"# Tides\n\nHigh water is at noon.")}
    httpx.post(f"{site.url}/api/documents", files=tide, data={"collection": "harbour"}).raise_for_status()
    for sample in sorted(SAMPLES.iterdir()):
        site.wait_document(site.upload(sample.name, sample.read_bytes())["id"])
    chat, embedding = [model["id"] for model in httpx.get(f"{site.url}/v1/models").json()["data"]]
    say_one = [{"role": "user", "content": "Say one."}]
    for path, body in (
        ("chat/completions", {"model": chat, "messages": say_one, "max_tokens": 4}),
        ("embeddings", {"model": embedding, "input": "one"}),
    ):
        httpx.post(f"{site.url}/v1/{path}", json=body, timeout=60).raise_for_status()
    httpx.post(f"{site.url}/api/keys", json={"name": "billing service"}).raise_for_status()
    job = httpx.post(f"{site.url}/api/jobs", json={"name": "Two", "prompts": ["Say one.", "Say two."]}).json()["id"]
    httpx.post(f"{site.url}/api/jobs/{job}/runs").raise_for_status()
    with visit(site) as page:
        page.goto(f"{site.url}/chat")
        suggestions = page.get_by_test_id("stMainBlockContainer")  # a chat may bear such a name in the list beside it
        suggestions.get_by_role("button", name=re.compile("How many steps")).click()
        page.get_by_role("button", name="Regenerate").wait_for()
        return str(page.url)


def test_every_page_of_a_lived_in_installation_is_sound(visit: Open, site: Server, chat_address: str) -> None:
    with visit(site) as page:
        for name in PAGES:
            check(page, chat_address if name == "chat" else f"{site.url}/{name}", LIVED_IN[name])


def test_the_bar_stands_still_from_page_to_page(visit: Open, site: Server, chat_address: str) -> None:
    with visit(site) as page:
        for name in PAGES:
            page.goto(f"{site.url}/{name}")
            bar = page.locator(".frame")
            expect(bar.get_by_role("heading", level=1)).to_have_text(PAGES[name][0])
            until(lambda bar=bar: bar.evaluate(BOX) == [0, 56], f"the bar of {name} is in its place")
            page.locator(SCROLLED).evaluate_all("all => all.forEach(one => one.scrollTo(0, 400))")
            until(lambda bar=bar: bar.evaluate(BOX) == [0, 56], f"{name} keeps its bar while it scrolls")
            expect(bar.get_by_role("status")).to_contain_text("Balanced")


BOX = "bar => { const box = bar.getBoundingClientRect(); return [Math.round(box.y), Math.round(box.height)]; }"

def test_a_request_of_the_list_shows_its_way(visit: Open, site: Server, chat_address: str) -> None:
    with visit(site) as page:
        page.goto(f"{site.url}/monitor")
        charts(page)
        page.get_by_role("radio", name="Requests").or_(page.get_by_role("button", name="Requests")).first.click()
        table = page.get_by_test_id("stDataFrame")
        expect(table).to_be_visible()
        settled(page)
        table.locator(".dvn-scroller").click(position={"x": 12, "y": 52})
        says(re.compile("^Prefill: "))(page)
        says(re.compile("tokens in, .* of them cached"))(page)


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
