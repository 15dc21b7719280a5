"""A chat is its key's: held to its limits, which the answer says, and on its bill."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from backend.chats.conversations import ChatOptions, Conversations
from backend.errors import BudgetError
from backend.metering.entry import DOLLAR
from backend.store.limits import Limits
from tests.conftest import until
from tests.generation.conftest import Room
from tests.metering.test_budgets import Purse

NO_DOCUMENTS: Any = SimpleNamespace()
OURS, THEIRS = ChatOptions(key_id="ours"), ChatOptions(key_id="theirs")


@pytest.fixture
def purse(room: Room) -> Purse:
    return Purse(room)


@pytest.fixture
def chats(room: Room, purse: Purse) -> Conversations:
    return Conversations(room.database, room.service, NO_DOCUMENTS, take=purse.budgets.take)


def answered(room: Room, chats: Conversations, chat: str) -> None:
    """Have the answer being written say something."""
    (request,) = until(lambda: room.engine.open, "the engine is asked")
    room.engine.answer(request)
    until(lambda: chats.busy(chat) is None, "it has ended")


def test_a_chat_whose_key_has_no_money_left_says_so_in_its_answer(
    room: Room, chats: Conversations, purse: Purse
) -> None:
    purse.limits["ours"] = Limits(day=DOLLAR)
    purse.spend(DOLLAR, "ours")
    chat = chats.create().id
    chats.ask(chat, "Hello", OURS)
    until(lambda: chats.busy(chat) is None, "it has ended")
    asked, answer = chats.messages(chat)
    assert asked.text == "Hello" and answer.state == "failed"
    assert "Key tf-ours has used its budget of $1 for this day" in answer.error
    assert room.engine.asked == []
    chats.regenerate(answer.id, THEIRS)
    answered(room, chats, chat)
    assert chats.messages(chat)[-1].state == "done", "another's key is another's budget"


def test_a_rate_holds_for_chats_too(room: Room, chats: Conversations, purse: Purse) -> None:
    purse.limits["ours"] = Limits(requests_per_minute=1)
    chat = chats.create().id
    chats.ask(chat, "One", OURS)
    answered(room, chats, chat)
    chats.ask(chat, "Two", OURS)
    until(lambda: chats.busy(chat) is None, "it has ended")
    assert "may begin 1 requests a minute" in chats.messages(chat)[-1].error and len(room.engine.asked) == 1


def test_what_a_chat_costs_is_its_keys(room: Room, chats: Conversations) -> None:
    chat = chats.create("tenant").id
    for _ in range(2):
        answer = chats.ask(chat, "Hello", OURS)
        answered(room, chats, chat)
    chats.regenerate(answer.id, THEIRS)
    room.engine.fail(until(lambda: room.engine.open, "the engine is asked")[0], "It broke.")
    until(lambda: chats.busy(chat) is None, "it has ended")
    assert room.ledger.flush(60)
    uses = {use.key_id: (use.requests, use.cost > 0) for use in room.ledger.queries.by_key()}
    assert uses == {"ours": (2, True), "theirs": (1, False)}
    assert {one.entry.tenant for one in room.ledger.queries.requests()} == {"tenant"}


def test_an_answer_that_may_not_be_written_on_can_be_later(room: Room, chats: Conversations, purse: Purse) -> None:
    chat = chats.create().id
    message = chats.ask(chat, "One", OURS)
    (request,) = until(lambda: room.engine.open, "the engine is asked")
    room.engine.write(request, " Once upon")
    chats.stop(chat)
    assert room.database.writer.flush(30)
    purse.limits["ours"] = Limits(day=0)
    with pytest.raises(BudgetError):
        chats.go_on(message.id, OURS)
    assert chats.can_go_on(chats.messages(chat)[-1])
    purse.limits["ours"] = Limits()
    chats.go_on(message.id, OURS)
    answered(room, chats, chat)
    assert chats.messages(chat)[-1].text == "Once upon Yes."
