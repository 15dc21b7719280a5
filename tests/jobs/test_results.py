"""Results are read as a table: what failed first, found by what it contains; and a run can be deleted alone."""

from __future__ import annotations

import pytest

from backend.errors import NotFoundError
from backend.jobs.service import Jobs
from backend.store.tables.jobs import JobRun
from tests.conftest import until


@pytest.fixture
def run(jobs: Jobs) -> JobRun:
    job = jobs.create("mixed", ["apple", "an odd one", "pear 100%", "Apple pie", "plum"])
    run = jobs.run(job.id)
    until(lambda: not jobs.progress(run.id).open, "the run ends")
    return run


def test_what_failed_comes_first_then_the_order_of_the_prompts(jobs: Jobs, run: JobRun) -> None:
    table = jobs.result_table(run.id)
    assert [row.position for row in table.rows] == [1, 0, 2, 3, 4] and table.total == 5
    assert table.rows[0].error and not table.rows[1].error
    assert [row.position for row in jobs.result_table(run.id, failed=True).rows] == [1]
    page = jobs.result_table(run.id, offset=2, limit=2)
    assert ([row.position for row in page.rows], page.total) == ([2, 3], 5)


@pytest.mark.parametrize(
    ("text", "found"),
    [("APPLE", [0, 3]), ("100%", [2]), ("%", [2]), ("answered by", [0, 2, 3, 4]), ("surrogates", [1]), ("nothing", [])],
)
def test_results_are_found_by_what_prompt_answer_or_error_contain(
    jobs: Jobs, run: JobRun, text: str, found: list[int]
) -> None:
    table = jobs.result_table(run.id, contains=text)
    assert (sorted(row.position for row in table.rows), table.total) == (found, len(found))


def test_a_run_is_deleted_alone_and_its_job_stays(jobs: Jobs, run: JobRun) -> None:
    assert [found.id for found, _ in jobs.recent()] == [run.id] and jobs.run_count() == 1
    jobs.delete_run(run.id)
    assert jobs.recent() == [] and jobs.run_count() == 0
    assert jobs.get(run.job_id).total == 5
    with pytest.raises(NotFoundError):
        jobs.result_table(run.id)
