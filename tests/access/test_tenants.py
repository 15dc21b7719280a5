"""What belongs to one caller is not shown to another: chats, and the prompt cache's and answer cache's salt."""

from __future__ import annotations

from typing import Any

import pytest

from backend.access.caller import STRANGER, Caller, Role, caller_from_headers
from backend.chats.conversations import ChatOptions
from backend.errors import ForbiddenError, NotFoundError
from backend.store.tables.chats import Message


def test_a_chat_is_its_owners_alone(local: Any) -> None:
    chats, database = local.runtime.conversations, local.runtime.database
    mine, theirs = chats.create("me"), chats.create("them")
    with database.session() as session:
        session.add_all([Message(conversation_id=c.id, position=0, role="user", text="Tides") for c in (mine, theirs)])
    assert [c.id for c in chats.latest(tenant="me")] == [mine.id]
    assert [c.id for c in chats.latest("tides", tenant="them")] == [theirs.id]
    assert chats.latest() == [], "whoever sits at the machine sees neither"
    assert chats.get(mine.id, "me").id == mine.id
    with pytest.raises(NotFoundError):
        chats.get(theirs.id, "me")


def test_a_chats_answer_is_cached_for_its_owner_alone(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    # The edge to the engine, which is not running: what would be sent to it.
    monkeypatch.setattr(
        local.runtime.generations, "start_in_background", lambda _generation, prepare: asked.append(prepare())
    )
    chat = local.runtime.conversations.create("me")
    local.runtime.conversations.ask(chat.id, "Hello", ChatOptions())
    assert asked[0].tenant == "me"


def test_keys_of_one_owner_see_the_same_things(local: Any) -> None:
    keys = local.access.keys
    first = keys.check(keys.create("laptop"))
    assert first.tenant == first.id != ""
    assert keys.check(keys.create("telephone", Role.READ_ONLY, first.tenant)).tenant == first.tenant
    assert keys.check(keys.create("another")).tenant not in (first.tenant, "")


def test_a_page_whose_caller_was_not_named_may_do_nothing() -> None:
    assert caller_from_headers({}) == STRANGER
    with pytest.raises(ForbiddenError, match="user"):
        STRANGER.require(Role.USER)
    Caller("k", "k", Role.ADMIN).require(Role.USER)
