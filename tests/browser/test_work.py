"""Jobs, Connect and Settings in a real Chromium: what a person gets done there, and what each page says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from tests.browser.conftest import DESKTOP, PHONE, settled
from tests.conftest import Server, until


def make_job(site: Server, name: str, prompts: list[str], **more: Any) -> str:
    body = {"name": name, "prompts": prompts, "max_tokens": 4, **more}
    made = httpx.post(f"{site.url}/api/jobs", json=body)
    job_id: str = made.json()["id"]
    return job_id


def run_to_the_end(site: Server, job_id: str) -> str:
    run_id: str = httpx.post(f"{site.url}/api/jobs/{job_id}/runs").json()["id"]
    until(lambda: httpx.get(f"{site.url}/api/jobs/runs/{run_id}").json()["finished"], "the run ends", 120)
    return run_id


@pytest.fixture
def emptied(site: Server) -> Server:
    for job in httpx.get(f"{site.url}/api/jobs").json()["data"]:
        httpx.delete(f"{site.url}/api/jobs/{job['id']}")
    return site


def row(page: Any, name: str) -> Any:
    """The row of the latest run of a job."""
    return page.locator("[class*=st-key-row-]").filter(has_text=name).first


def choose(page: Any, option: str) -> None:
    page.get_by_role("dialog").get_by_role("radio", name=option).click()


# ---- jobs ----


def test_a_first_job_is_made_in_a_dialog_and_its_results_are_read_searched_and_downloaded(
    emptied: Server, page: Any
) -> None:
    page.goto(f"{emptied.url}/jobs")
    expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()
    page.get_by_role("button", name="New job").click()
    dialog = page.get_by_role("dialog")
    prompts = dialog.get_by_label("One prompt a line")
    prompts.fill("Say one.\nSay two.\n\nSay three.\nSay four.")
    prompts.blur()
    expect(dialog.get_by_text("4 prompts")).to_be_visible()
    expect(dialog.get_by_text("… and 1 more")).to_be_visible()
    expect(dialog.get_by_text(re.compile("not known before the first run"))).to_be_visible()
    dialog.get_by_label("Longest answer, in tokens").fill("4")
    dialog.get_by_role("button", name="Run now").click()
    expect(dialog).to_have_count(0)
    expect(row(page, "Say one.").get_by_text("done", exact=True)).to_be_visible()
    row(page, "Say one.").get_by_role("button", name="Results").click()
    expect(page.get_by_text("Mark a row to read it whole.")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download all").click()
    results = [json.loads(line) for line in download.value.path().read_text().splitlines()]
    assert [result["prompt"] for result in results] == ["Say one.", "Say two.", "Say three.", "Say four."]
    search = page.get_by_role("textbox", name="Search prompts and answers")
    search.fill("no such thing")
    search.press("Enter")
    expect(page.get_by_text("Nothing here contains this.")).to_be_visible()
    page.reload()
    expect(page.get_by_text("Mark a row to read it whole.")).to_be_visible()
    page.get_by_role("button", name="Back to all runs").click()
    expect(page.get_by_role("heading", name="Runs")).to_be_visible()


def test_a_schedule_is_said_in_words_with_its_next_runs_in_the_readers_zone(emptied: Server, visit: Any) -> None:
    make_job(emptied, "others", ["Say one."])
    with visit(emptied, timezone_id="Asia/Kolkata") as page:  # half an hour beside every full one
        page.goto(f"{emptied.url}/jobs")
        page.get_by_role("button", name="New job").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("One prompt a line").fill("Say one.")
        dialog.get_by_label("Name").fill("nightly")
        dialog.get_by_label("Name").press("Enter")
        settled(page)
        choose(page, "On a schedule")
        expect(dialog.get_by_text("Every day at 02:00")).to_be_visible()
        following = dialog.get_by_text(re.compile("Next, on yours"))
        assert len(re.findall(r"\d\d \w{3} \d{4}, \d\d:30", following.inner_text())) == 3
        make_job(emptied, "made elsewhere", ["Say one."])
        expect(page.get_by_text("made elsewhere")).to_be_attached()  # the page behind has looked for news
        expect(dialog).to_be_visible()
        dialog.get_by_role("button", name="Schedule").click()
        expect(dialog).to_have_count(0)
        job = page.locator("[class*=st-key-job-]").filter(has_text="nightly")
        expect(job).to_contain_text("Every day at 02:00")
        expect(job).to_contain_text(re.compile(r"next \d\d \w{3} \d{4}, \d\d:30"))


def test_what_failed_is_said_and_comes_first(emptied: Server, page: Any) -> None:
    run_id = run_to_the_end(emptied, make_job(emptied, "mixed", ["Say one.", "word " * 9000]))
    page.goto(f"{emptied.url}/jobs")
    expect(row(page, "mixed").get_by_text("1 failed")).to_be_visible()
    page.goto(f"{emptied.url}/jobs?run={run_id}")
    page.get_by_text("Only failed").click()
    settled(page)
    cells = page.get_by_test_id("stDataFrame").locator("table")
    expect(cells).to_contain_text("maximum context length")
    expect(cells).not_to_contain_text("answered")


def test_deleting_a_run_or_a_job_asks_first(emptied: Server, page: Any) -> None:
    run_to_the_end(emptied, make_job(emptied, "to be deleted", ["Say one."]))
    page.goto(f"{emptied.url}/jobs")
    row(page, "to be deleted").get_by_role("button", name="Delete").click()
    expect(page.get_by_text(re.compile("is deleted, with 1 result"))).to_be_visible()
    page.keyboard.press("Escape")
    expect(row(page, "to be deleted")).to_be_visible()
    row(page, "to be deleted").get_by_role("button", name="Delete").click()
    page.get_by_test_id("stPopoverBody").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("Nothing has run yet.")).to_be_visible()
    page.locator("[class*=st-key-job-]").get_by_role("button", name="Delete").click()
    page.get_by_test_id("stPopoverBody").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()


def make_batch(site: Server, name: str, prompts: list[str], *, max_tokens: int = 4) -> str:
    endpoint, model = "/v1/completions", "smollm2-135m-instruct"
    lines = [
        json.dumps({
            "custom_id": str(i), "method": "POST", "url": endpoint,
            "body": {"model": model, "prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True},
        })
        for i, prompt in enumerate(prompts)
    ]  # fmt: skip
    file = httpx.post(
        f"{site.url}/v1/files", files={"file": (name, "\n".join(lines).encode())}, data={"purpose": "batch"}
    ).json()["id"]
    asked = {"input_file_id": file, "endpoint": endpoint, "completion_window": "24h"}
    batch_id: str = httpx.post(f"{site.url}/v1/batches", json=asked).json()["id"]
    return batch_id


def test_a_programs_batch_is_followed_cancelled_and_downloaded(emptied: Server, page: Any) -> None:
    page.goto(f"{emptied.url}/jobs")
    expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()
    make_batch(emptied, "mixed.jsonl", ["One, two,", "word " * 9000])
    batch = page.locator("[class*=st-key-batch-]")
    mixed = batch.filter(has_text="mixed.jsonl")
    expect(mixed.get_by_text("done", exact=True)).to_be_visible()
    expect(mixed).to_contain_text("2 of 2 requests")
    expect(mixed.get_by_text("1 failed")).to_be_visible()
    for label, custom_id in (("Output", "0"), ("Errors", "1")):
        with page.expect_download() as download:
            mixed.get_by_role("link", name=label).click()
        assert json.loads(download.value.path().read_text())["custom_id"] == custom_id
    make_batch(emptied, "long.jsonl", ["One, two,"] * 200, max_tokens=1000)
    long = batch.filter(has_text="long.jsonl")
    expect(long.get_by_text("running", exact=True)).to_be_visible()
    long.get_by_role("button", name="Cancel").click()
    expect(long.get_by_text("cancelled", exact=True)).to_be_visible()
    wrong = httpx.post(
        f"{emptied.url}/v1/files", files={"file": ("wrong.jsonl", b"{}")}, data={"purpose": "batch"}
    ).json()["id"]
    asked = {"input_file_id": wrong, "endpoint": "/v1/completions", "completion_window": "24h"}
    httpx.post(f"{emptied.url}/v1/batches", json=asked)
    expect(batch.filter(has_text="wrong.jsonl")).to_contain_text("Line 1: custom_id must be")


# ---- connect ----


def test_a_copied_call_runs_as_it_stands(site: Server, page: Any) -> None:
    page.goto(f"{site.url}/connect")
    snippet = page.get_by_test_id("stCode").first.locator("code").inner_text()
    assert site.url in snippet
    home = {**os.environ, "PYTHONPATH": ""}
    said = subprocess.run(
        [sys.executable, "-c", snippet], capture_output=True, text=True, timeout=120, env=home, check=False
    )
    assert said.returncode == 0 and said.stdout.strip(), said.stderr


def test_send_shows_what_really_came_back(site: Server, page: Any) -> None:
    page.goto(f"{site.url}/connect")
    question = page.get_by_label("Question")
    question.fill("Say one.")
    question.press("Enter")
    page.get_by_text("Stream the answer").click()
    settled(page)
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("200 OK")).to_be_visible()
    expect(page.get_by_text(re.compile(r"first token after \d"))).to_be_visible()
    expect(page.get_by_text(re.compile(r"x-request-id: \w{8}")).first).to_be_visible()
    page.get_by_text("Body", exact=True).click()
    expect(page.get_by_test_id("stCode").filter(has_text="data: [DONE]")).to_be_visible()


def test_a_new_key_stands_in_the_calls_and_revoking_it_asks(site: Server, page: Any) -> None:
    page.goto(f"{site.url}/connect")
    page.get_by_label("Name of a new key").fill("billing service")
    page.get_by_role("button", name="Create a key").click()
    shown = page.get_by_test_id("stCode").filter(has_text=re.compile("^tf-"))
    key = shown.inner_text().strip()
    expect(page.get_by_test_id("stCode").first).to_contain_text(key)
    program = httpx.Client(headers={"authorization": f"Bearer {key}"})
    assert program.get(f"{site.url}/v1/models").status_code == 200
    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_text(re.compile("stops working"))).to_be_visible()
    page.get_by_test_id("stPopoverBody").get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("button", name="Revoke")).to_have_count(0)
    assert program.get(f"{site.url}/v1/models").status_code == 401
    expect(page.get_by_test_id("stCode").first).not_to_contain_text(key)


# ---- settings ----


def test_an_own_price_is_in_force_at_once_and_after_a_reload(site: Server, page: Any) -> None:
    page.goto(f"{site.url}/settings")
    machine = page.get_by_role("combobox", name="Machine")
    machine.click()
    page.get_by_role("option", name="My own price").click()
    own = page.get_by_label("US dollars per hour")
    own.fill("0.25")
    own.press("Tab")
    page.get_by_role("button", name="Use this price").click()
    expect(page.get_by_text(re.compile(r"In force: My own price.*0\.25 per hour"))).to_be_visible()
    page.reload()
    expect(page.get_by_text(re.compile(r"In force: My own price.*0\.25 per hour"))).to_be_visible()
    machine.click()
    page.get_by_role("option").first.click()  # the one that is most like this machine
    page.get_by_role("button", name="Use this price").click()
    expect(page.get_by_text(re.compile(r"In force: .* cloud machine"))).to_be_visible()


def test_what_is_kept_says_its_size_and_forgetting_asks(site: Server, page: Any) -> None:
    body = {"model": "smollm2-135m-instruct", "temperature": 0, "max_tokens": 4,
            "messages": [{"role": "user", "content": "Say one."}]}  # fmt: skip
    httpx.post(f"{site.url}/v1/chat/completions", json=body, timeout=120).raise_for_status()
    page.goto(f"{site.url}/settings")
    answers = page.locator(".st-key-kept-Answers")
    expect(answers).to_contain_text(re.compile(r"Answers\s+[1-9]"))
    answers.get_by_role("button", name="Forget").click()
    expect(page.get_by_text("answered anew")).to_be_visible()
    page.get_by_test_id("stPopoverBody").get_by_role("button", name="Forget").click()
    expect(answers).to_contain_text(re.compile(r"Answers\s+0"))


# ---- all three ----

NAMELESS = """[...document.querySelectorAll("[data-testid=stMain] :is(button, a, input, textarea)")]
    .filter(e => e.checkVisibility())
    .map(e => e.ariaLabel || e.innerText || e.labels?.[0]?.innerText || e.title || e.placeholder || "")
    .filter(name => !name.trim() || /\\b(arrow_|keyboard_|delete_|material)\\w*/.test(name))"""


@pytest.mark.parametrize("name", ["jobs", "connect", "settings"])
def test_nothing_has_to_be_moved_sideways_on_a_phone_and_all_has_a_name(site: Server, visit: Any, name: str) -> None:
    make_job(site, "A job with a name that is as long as names of jobs that people give can be", ["Say one."])
    with visit(site, viewport=PHONE, is_mobile=True, has_touch=True) as page:
        page.goto(f"{site.url}/{name}")
        expect(page.get_by_test_id("stMain").get_by_role("button").first).to_be_visible()
        settled(page)
        for size in (PHONE, DESKTOP):
            page.set_viewport_size(size)
            assert page.get_by_test_id("stMain").evaluate("e => e.scrollWidth - e.clientWidth") <= 0, size
        assert page.evaluate(NAMELESS) == []
