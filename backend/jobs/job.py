"""What a job is: the states in which its run is open, its limits, and what it asks of a model for one prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from backend.engine.messages import BATCH, SamplingParams
from backend.errors import InvalidInputError
from backend.generation.grounded import grounded_request
from backend.generation.request import TextRequest, check_sampling
from backend.knowledge.grounding import Grounding
from backend.store.tables.jobs import Job, RunState

OPEN = (RunState.QUEUED, RunState.RUNNING, RunState.WAITING)
"""States of a run that has not ended."""
MAX_TOKENS = 4096
"""Longest answer that a job may ask for."""

Ground = Callable[[str, str, int, str], Grounding]
"""(question, system prompt, most tokens of the answer, id of the key that asks) → messages with passages."""


def check_job(job: Job) -> None:
    """Refuse a job whose prompts could never be answered.

    Raises:
        InvalidInputError: names the parameter and its range.
    """
    if not 1 <= job.max_tokens <= MAX_TOKENS:
        raise InvalidInputError(f"max_tokens must be between 1 and {MAX_TOKENS}.", param="max_tokens")
    check_sampling(SamplingParams(temperature=job.temperature), ())


def request_for(job: Job, prompt: str, ground: Ground, key_id: str = "") -> TextRequest:
    """What is asked for one prompt, on the patient path; looks for passages where the job answers from documents.

    Args:
        job: of the prompt.
        prompt: its text.
        ground: finds the passages.
        key_id: of the key that began the run.
    """
    common: dict[str, Any] = {
        "sampling": SamplingParams(temperature=job.temperature), "max_tokens": job.max_tokens, "path": BATCH,
        "source": "job", "key_id": key_id, "question": prompt, "likeness_scope": f"{job.documents}\0{job.system}",
    }  # fmt: skip
    if job.documents:
        return grounded_request(ground(prompt, job.system, job.max_tokens, key_id), **common)
    system = [{"role": "system", "content": job.system}] if job.system.strip() else []
    return TextRequest(messages=[*system, {"role": "user", "content": prompt}], **common)
