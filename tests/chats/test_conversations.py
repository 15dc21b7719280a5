"""Chats are stored before they are answered, and an answer belongs to its conversation, not to a page."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.chats.conversations import ChatOptions
from backend.engine.messages import SamplingParams
from backend.errors import InvalidInputError, NotFoundError
from backend.generation.request import TextRequest
from backend.metering.account import Account
from backend.runtime import Runtime, close_runtime, open_runtime
from backend.settings import Settings
from tests.conftest import until

LONG = ChatOptions(sampling=SamplingParams(temperature=1.3, seed=1), max_tokens=1200)
SHORT = ChatOptions(sampling=SamplingParams(temperature=0.0), max_tokens=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("chats")
    (folder / "cache").symlink_to(cache_dir)
    return folder


@pytest.fixture(scope="module")
def runtime(folder: Path) -> Iterator[Runtime]:
    runtime = open_runtime(Settings(data_dir=folder))
    assert runtime.engine.wait_ready(120)
    yield runtime
    close_runtime()


def answer(runtime: Runtime, conversation: str, text: str, options: ChatOptions = SHORT) -> str:
    message = runtime.conversations.ask(conversation, text, options)
    generation = runtime.conversations.writing(message.id)
    if generation is not None:
        assert generation.wait(60)
    return message.id


def test_a_question_is_stored_before_it_is_answered(runtime: Runtime) -> None:
    chat = runtime.conversations.create()
    message = runtime.conversations.ask(chat.id, "Hello there", LONG)
    roles = [(m.role, m.state) for m in runtime.conversations.messages(chat.id)]
    assert roles == [("user", "done"), ("assistant", "writing")]
    with pytest.raises(InvalidInputError, match="still being written"):
        runtime.conversations.ask(chat.id, "And now?", LONG)
    generation = runtime.conversations.writing(message.id)
    assert generation is not None
    next(iter(generation.follow()))
    runtime.conversations.stop(chat.id)
    stored = runtime.conversations.messages(chat.id)[-1]
    assert stored.state == "stopped" and stored.text


def test_stop_works_before_the_first_token(runtime: Runtime) -> None:
    chat = runtime.conversations.create()
    runtime.conversations.ask(chat.id, "Hello", LONG)
    runtime.conversations.stop(chat.id)
    until(lambda: runtime.conversations.messages(chat.id)[-1].state == "stopped", "the answer is stopped")
    until(lambda: (s := runtime.engine.ping(30)).running + s.waiting_realtime == 0, "the engine has dropped it")


def test_an_answer_keeps_its_account(runtime: Runtime) -> None:
    chat = runtime.conversations.create()
    answer(runtime, chat.id, "Hello")
    account = runtime.conversations.messages(chat.id)[-1].details["account"]
    assert account["output_tokens"] > 0 and account["ttft"] > 0 and account["cost"] > 0


def test_what_the_prefix_cache_saved_is_about_what_reading_it_took(runtime: Runtime) -> None:
    def read(prompt: list[int], most: int) -> Account:
        request = TextRequest(token_ids=prompt, sampling=SamplingParams(ignore_eos=True), max_tokens=most, fresh=True)
        generation = runtime.generations.start(runtime.generations.prepare(request))
        assert generation.wait(120) and generation.account is not None
        return generation.account

    prompt = [1000 + 7 * i % 5000 for i in range(1500)]
    took = read(prompt, 1).compute_seconds  # the token written comes with the last that is read
    again = read([*prompt[:1408], *range(2000, 2092)], 1)  # more would be guessed, which saves time as well
    assert again.cached_tokens >= 1400
    saved = again.saved / (runtime.prices.current.per_hour / 3600)
    assert 0.3 < saved / (took * again.cached_tokens / 1500) < 3


def test_a_cut_answer_goes_on_as_if_it_had_not_been_cut(runtime: Runtime) -> None:
    long = ChatOptions(sampling=SamplingParams(temperature=0.0), max_tokens=40)
    whole, cut = runtime.conversations.create(), runtime.conversations.create()
    question = "Write three sentences about the sea."
    answer(runtime, whole.id, question, long)
    identifier = answer(runtime, cut.id, question, SHORT)
    short = runtime.conversations.messages(cut.id)[-1]
    assert short.details["finish_reason"] == "length" and runtime.conversations.can_go_on(short)
    for _ in range(4):
        runtime.conversations.go_on(identifier, SHORT)
        generation = runtime.conversations.writing(identifier)
        assert generation is None or (generation.text.startswith(short.text) and generation.wait(60))
    expected, now = (runtime.conversations.messages(chat.id)[-1] for chat in (whole, cut))
    assert now.text == expected.text and now.id == identifier
    assert now.details["account"]["output_tokens"] == expected.details["account"]["output_tokens"] == 40
    assert len(runtime.conversations.messages(cut.id)) == 2


def test_chats_are_found_renamed_exported_and_deleted(runtime: Runtime) -> None:
    chat = runtime.conversations.create()
    answer(runtime, chat.id, "Tell me of 100% wool_socks")
    found = runtime.conversations.latest("100% WOOL_")
    assert [c.id for c in found] == [chat.id]
    assert runtime.conversations.latest("100x wool") == []
    runtime.conversations.rename(chat.id, "Socks")
    text = runtime.conversations.export(chat.id)
    assert text.startswith("# Socks") and "wool_socks" in text
    with pytest.raises(InvalidInputError):
        runtime.conversations.rename(chat.id, "  ")
    runtime.conversations.delete(chat.id)
    with pytest.raises(NotFoundError):
        runtime.conversations.get(chat.id)


def test_a_dead_engine_fails_the_answer_and_keeps_what_was_written(runtime: Runtime) -> None:
    chat = runtime.conversations.create()
    message = runtime.conversations.ask(chat.id, "Tell a story", LONG)
    generation = runtime.conversations.writing(message.id)
    assert generation is not None
    follower = generation.follow()
    for _ in range(5):
        next(follower)
    os.kill(runtime.engine.known().pid, signal.SIGKILL)
    assert generation.wait(60)
    stored = runtime.conversations.messages(chat.id)[-1]
    assert stored.state == "failed" and "started again" in stored.error and stored.text
    assert runtime.engine.wait_ready(60)
    answer(runtime, chat.id, "Are you back?")
    assert runtime.conversations.messages(chat.id)[-1].state == "done"
