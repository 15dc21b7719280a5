"""What whoever looks may do with documents."""

from __future__ import annotations

from backend.access.caller import LOCAL, Role
from pages.caller import current_caller


def may_change() -> bool:
    """Whether they may upload and delete."""
    return current_caller().role.covers(Role.USER)


def may_forget() -> bool:
    """Whether they may throw away what is kept of everybody's."""
    return current_caller().role.covers(Role.ADMIN)


def has_others() -> bool:
    """Whether there is anybody from whom to keep something: callers are told apart."""
    return current_caller() != LOCAL
