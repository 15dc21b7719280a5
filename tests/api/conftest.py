"""Doors with keys, as in `tests/access`."""

from tests.access.conftest import guarded, local, opened

__all__ = ["guarded", "local", "opened"]
