"""Chats over the generation room's stand-in engine, a real tokenizer and a real database."""

from tests.generation.conftest import room, text

__all__ = ["room", "text"]
