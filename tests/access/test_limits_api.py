"""Administrators set budgets and rates over HTTP, and whoever is over them is refused before anything is begun."""

from __future__ import annotations

import time
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from backend.access.caller import Role
from tests.metering.test_budgets import entry_of

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
USES = [
    ("/v1/chat/completions", CHAT), ("/v1/completions", {"model": "m", "prompt": "Hello"}),
    ("/v1/embeddings", {"model": "m", "input": "Hello"}), ("/api/jobs", {"prompts": ["Hello"]}),
    ("/api/jobs/any/runs", {}),
]  # fmt: skip


@pytest.fixture
def admin(guarded: Any) -> Any:
    return guarded.client(guarded.key(Role.ADMIN))


@pytest.fixture
def made(guarded: Any, admin: Any) -> Any:
    """A key as the API tells it, and a program that has it."""
    key = admin.post("/api/keys", json={"name": "billing"}).json()
    return key, guarded.client(key["key"])


def spend(guarded: Any, dollars: float, key: str) -> None:
    guarded.runtime.budgets.observe(entry_of(round(dollars * 1e9), key, time.time()))


def test_a_keys_limits_are_set_shown_and_taken_away(guarded: Any, admin: Any, made: Any) -> None:
    key, _ = made
    path = f"/api/keys/{key['id']}"
    assert key["limits"]["day_dollars"] is None
    changed = admin.patch(path, json={"day_dollars": 1.5, "requests_per_minute": 60, "warn_percent": 50})
    assert changed.status_code == 200
    admin.patch(path, json={"month_dollars": 20})
    spend(guarded, 0.25, key["id"])
    listed = next(row for row in admin.get("/api/keys").json()["data"] if row["id"] == key["id"])
    assert listed["limits"] == {
        "requests_per_minute": 60, "day_dollars": 1.5, "month_dollars": 20, "warn_percent": 50,
        "spent_day_dollars": 0.25, "spent_month_dollars": 0.25,
    }  # fmt: skip
    admin.patch(path, json={"day_dollars": None})
    assert guarded.access.keys.limits(key["id"]).day is None
    assert guarded.access.keys.limits(key["id"]).requests_per_minute == 60, "what is not named stays"
    assert admin.patch("/api/keys/nobody", json={"day_dollars": 1}).status_code == 404


@pytest.mark.parametrize("body", [{"day_dollars": -1}, {"requests_per_minute": 0}, {"warn_percent": 101},
                                  {"month_dollars": "many"}])  # fmt: skip
def test_limits_that_mean_nothing_are_refused(admin: Any, made: Any, body: dict[str, Any]) -> None:
    assert admin.patch(f"/api/keys/{made[0]['id']}", json=body).status_code == 400
    assert admin.patch("/api/limits", json=body).status_code == 400


@pytest.mark.parametrize(("path", "body"), USES)
def test_a_key_whose_budget_is_used_up_uses_nothing(
    guarded: Any, admin: Any, made: Any, path: str, body: dict[str, Any]
) -> None:
    key, program = made
    admin.patch(f"/api/keys/{key['id']}", json={"day_dollars": 1})
    spend(guarded, 1, key["id"])
    refused = program.post(path, json=body)
    assert refused.status_code == 429 and refused.json()["error"]["code"] == "budget_exceeded"
    assert 0 < int(refused.headers["retry-after"]) <= 86_400 and refused.headers["x-should-retry"] == "false"
    assert f"Key {key['prefix']}… has used its budget of $1 for this day" in refused.json()["error"]["message"]
    assert program.get("/api/jobs").status_code == 200, "looking costs nothing"
    assert admin.post(path, json=body).status_code != 429, "another's key is another's budget"


def test_a_job_and_its_run_are_the_keys_that_asked_for_them(guarded: Any, admin: Any, made: Any) -> None:
    key, program = made
    job = program.post("/api/jobs", json={"prompts": ["Hello"]}).json()
    jobs = guarded.runtime.jobs
    assert jobs.get(job["id"]).key_id == key["id"]
    for caller in (program, admin):
        run = caller.post(f"/api/jobs/{job['id']}/runs").json()
        caller.post(f"/api/jobs/runs/{run['id']}/cancel")
    latest, first = (run.key_id for run in jobs.runs(job["id"]))
    assert first == key["id"] != latest, "who runs another's job pays for it"


def test_a_rate_is_refused_with_when_to_come_again(admin: Any, made: Any) -> None:
    key, program = made
    admin.patch(f"/api/keys/{key['id']}", json={"requests_per_minute": 2})
    answers = [program.post("/api/jobs", json={"prompts": ["Hello"]}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201, 201, 429]
    assert answers[2].json()["error"]["code"] == "rate_limit_exceeded" and int(answers[2].headers["retry-after"]) <= 30


def test_the_installations_limit_holds_for_everybody(guarded: Any, admin: Any, made: Any) -> None:
    assert admin.patch("/api/limits", json={"month_dollars": 0}).json()["month_dollars"] == 0
    for program in (admin, made[1]):
        assert program.post("/v1/completions", json={"model": "m", "prompt": "Hi"}).status_code == 429
    assert admin.get("/api/limits").json()["month_dollars"] == 0
    admin.patch("/api/limits", json={"month_dollars": None})
    assert admin.post("/v1/completions", json={"model": "m", "prompt": "Hi"}).status_code != 429


@pytest.mark.parametrize("role", [Role.USER, Role.READ_ONLY])
def test_limits_are_an_administrators_business(guarded: Any, made: Any, role: Role) -> None:
    program = guarded.client(guarded.key(role))
    assert program.get("/api/limits").status_code == 403
    assert program.patch("/api/limits", json={"day_dollars": 1}).status_code == 403
    assert program.patch(f"/api/keys/{made[0]['id']}", json={"day_dollars": None}).status_code == 403


def test_a_scrape_of_the_whole_product_has_the_budgets(guarded: Any, admin: Any, made: Any) -> None:
    admin.patch(f"/api/keys/{made[0]['id']}", json={"day_dollars": 2})
    spend(guarded, 1, made[0]["id"])
    text = admin.get("/metrics").text
    assert f'tenfold_budget_used_ratio{{key="{made[0]["id"]}",period="day"}} 0.5' in text
    assert "tenfold_machine_price_dollars_per_hour{" in text and "tenfold_lost_writes_total 0.0" in text


def test_the_consoles_form_sets_what_the_api_shows(guarded: Any, admin: Any, made: Any) -> None:
    def form(*given: object) -> None:  # run by its source alone
        from pages.drawing.key_limits import key_limits

        key_limits(*given)  # type: ignore[arg-type]

    key, _ = made
    page = AppTest.from_function(form, args=(guarded.runtime, key["id"])).run(timeout=30)
    day, month, rate, warn = page.number_input
    assert day.value is month.value is rate.value is None and warn.value == 80
    day.set_value(0.5), rate.set_value(30)
    page.button[0].click().run(timeout=30)
    assert not page.exception
    limits = next(row for row in admin.get("/api/keys").json()["data"] if row["id"] == key["id"])["limits"]
    assert (limits["day_dollars"], limits["month_dollars"], limits["requests_per_minute"]) == (0.5, None, 30)
