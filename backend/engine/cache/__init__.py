"""Blocks of keys and values: who holds them, and where they outlive memory."""
